"""Callbacks measured: bad receivers beside good ones, killed senders and workers, and the rate."""
