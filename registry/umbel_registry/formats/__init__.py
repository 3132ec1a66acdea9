"""One module per model format: how its file becomes a callable, without unpickling anything."""
