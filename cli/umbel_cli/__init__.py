"""The `umbel` command: start everything, push models, submit jobs, look at lanes."""
