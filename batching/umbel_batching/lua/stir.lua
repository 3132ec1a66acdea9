-- Calls a drain that stays at an empty lane for work: there is other work for its slot.
-- KEYS: idle, ring
-- ARGV: none
-- Returns 1 when one was called.
return call_idle(now_ms()) and 1 or 0
