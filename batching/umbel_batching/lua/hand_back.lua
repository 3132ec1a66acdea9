-- Gives the running batches of a drain back, without penalty: its worker stops before they end.
-- KEYS: lane, waiting, leases, sent, drains, idle, busy, stays, deadlines, wake, signal, job, batch
-- ARGV: slot, drain token, TTL of the batches in s
-- Returns the number of jobs that wait again.
local slot, token = ARGV[1], ARGV[2]
local now = now_ms()
leave(slot, redis.call('HGET', lane, 'queue'), token)
local back = {}
for _, id in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  local known = redis.call('HMGET', batch .. id, 'token', 'uids')
  if known[1] == token then
    redis.call('ZREM', leases, id)
    for _, uid in ipairs(uids_in(known[2])) do
      local head = redis.call('GETRANGE', job .. uid, 0, HEAD - 1)
      if held(head, id) then back[#back + 1] = untried(uid, head) end
    end
    redis.call('HSET', batch .. id, 'handed_back', ms13(now))
    redis.call('EXPIRE', batch .. id, ARGV[3])
  end
end
requeue(slot, back, now)
if redis.call('ZCARD', waiting) > 0 then arm(slot, now) end
return #back
