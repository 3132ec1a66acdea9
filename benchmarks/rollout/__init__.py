"""A model is pushed, promoted, rolled back and retired under load, and every job is looked at."""
