-- Notes that a worker is alive, and how many batches it can run side by side.
-- KEYS: workers of one queue
-- ARGV: worker|slots, ms after which the news is stale; 0: the worker leaves
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ARGV[2] == '0' then return redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('EXPIRE', KEYS[1], 60)
return 1
