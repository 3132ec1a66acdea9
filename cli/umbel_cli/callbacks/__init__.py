"""``umbel callbacks``: what was not delivered, how receivers fare, and signatures."""
