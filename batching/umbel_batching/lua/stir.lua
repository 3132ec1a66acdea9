-- Calls a drain that stays at an empty lane for work: there is other work for its slot.
-- KEYS: lane, idle, stays, ring
-- ARGV: slot
-- Returns 1 when one was called.
local queue = redis.call('HGET', lane, 'queue')
return queue and call_idle(queue, ARGV[1], now_ms()) and 1 or 0
