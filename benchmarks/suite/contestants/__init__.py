"""The contestants: what serves, and what asks it; each runs in an environment of its own."""
