-- Ends a drain that stops before its lane is empty; a flusher looks at the lane at once.
-- KEYS: waiting, sent, drains, wake, signal
-- ARGV: slot, drain token
-- Returns the number of jobs that wait.
redis.call('ZREM', sent, ARGV[2])
redis.call('ZREM', drains, ARGV[2])
local depth = redis.call('ZCARD', waiting)
if depth > 0 then arm(ARGV[1], now_ms()) end
return depth
