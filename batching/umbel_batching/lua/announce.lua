-- Notes that a worker is alive, and how many batches it can run side by side.
-- KEYS: workers of one queue, slots of that queue
-- ARGV: worker|slots, ms after which the news is stale; 0: the worker leaves
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
  redis.call('EXPIRE', KEYS[1], 60)
end
local there = 0
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  there = there + tonumber(string.match(member, '|(%d+)$'))
end
redis.call('SET', KEYS[2], there, 'EX', 60)
return 1
