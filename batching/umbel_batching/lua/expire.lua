-- Ends waiting jobs whose deadline has passed; no worker is needed for it.
-- KEYS: lane, waiting, deadlines, job, tomb, once, receivers, outbox, receiver, senders, wake, signal, owing
-- ARGV: slot, most jobs to end, retention, prefix of reply channels
-- Returns the number of jobs ended.
local slot, keep = ARGV[1], retention(ARGV[3])
local now, ended, bytes = now_ms(), {}, 0
begin(deadlines)
for _, uid in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', now, 'LIMIT', 0, ARGV[2])) do
  redis.call('ZREM', deadlines, uid)
  if redis.call('ZREM', waiting, uid) == 1 then
    bytes = bytes + redis.call('STRLEN', job .. uid)
    local head = redis.call('GETRANGE', job .. uid, 0, HEAD - 1)
    if head ~= '' then
      finish(uid, head, 'e', now, keep, ARGV[4], slot)
      ended[#ended + 1] = uid .. 'e'
    end
  end
end
post(now)
if #ended > 0 then
  bury(ended, now, keep.result + keep.tomb)
  redis.call('HINCRBY', lane, 'bytes', -bytes)
  redis.call('HINCRBY', lane, 'expired', #ended)
end
return #ended
