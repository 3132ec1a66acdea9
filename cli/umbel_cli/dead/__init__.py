"""``umbel dead``: the jobs that failed for good, their evidence, and a second chance."""
