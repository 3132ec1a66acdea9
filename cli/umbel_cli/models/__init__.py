"""``umbel models``: versions of models, and which of them answers."""
