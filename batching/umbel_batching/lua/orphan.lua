-- Ends the leases of a process that has died, and notes why: its batches are taken back at once.
-- KEYS: lane, leases, drains, idle, busy, stays, wake, signal, batch
-- ARGV: slot, a drain token or the name of a worker, the cause
-- Returns the number of batches.
local slot, owner = ARGV[1], ARGV[2]
local now, found = now_ms(), 0
begin(leases)
-- A hint that it had not answered stays noted: the pause before the next one grows, so that a model
-- which kills whoever loads it is not loaded without end.
local queue = redis.call('HGET', lane, 'queue')
local ended = redis.call('ZREM', drains, owner)
if queue then
  redis.call('ZREM', busy .. queue, owner)
  stays_no_more(queue, slot, owner)
end
for _, id in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  local known = redis.call('HMGET', batch .. id, 'token', 'worker')
  if known[1] == owner or known[2] == owner then
    redis.call('HSET', batch .. id, 'cause', ARGV[3])
    redis.call('ZADD', leases, now - 1, id)
    redis.call('ZREM', drains, known[1])
    if queue then redis.call('ZREM', busy .. queue, known[1]) end
    found = found + 1
  end
end
if found + ended > 0 then arm(slot, now) end
return found
