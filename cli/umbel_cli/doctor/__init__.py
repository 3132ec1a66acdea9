"""``umbel doctor``: what is amiss with Redis, settings, workers, lanes, callbacks and models."""
