-- Ends a drain that stops before its lane is empty; a flusher looks at the lane at once.
-- KEYS: lane, waiting, sent, drains, idle, busy, stays, wake, signal
-- ARGV: slot, drain token
-- Returns the number of jobs that wait.
leave(ARGV[1], redis.call('HGET', lane, 'queue'), ARGV[2])
local depth = redis.call('ZCARD', waiting)
if depth > 0 then arm(ARGV[1], now_ms()) end
return depth
