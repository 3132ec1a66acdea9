"""The Redis micro-batcher: lanes, records, scripts, policy, flusher and the wire format."""
