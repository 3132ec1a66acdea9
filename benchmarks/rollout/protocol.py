"""What the processes of a run print for the one that started them."""

from __future__ import annotations

#: The load is under way; a model folder can be pushed now; it is pushed.
BEGUN, READY, PUSHED = "begun", "ready", "pushed"
