"""The fault table: real processes are killed, frozen, cut off and poisoned; jobs are counted."""
