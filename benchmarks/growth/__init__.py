"""How throughput and latency grow with batches, depth, producers, workers, lanes and payload."""
