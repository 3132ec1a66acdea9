-- Ends a drain that stops before its lane is empty; a flusher looks at the lane at once.
-- KEYS: waiting, sent, drains, wake, signal
-- ARGV: slot, drain token
-- Returns the number of jobs that wait.
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[2])
local depth = redis.call('ZCARD', KEYS[1])
if depth > 0 then arm(KEYS[4], KEYS[5], ARGV[1], now_ms()) end
return depth
