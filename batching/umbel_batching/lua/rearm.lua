-- Puts a lane back on the flushers' list if it has work and fell off it.
-- KEYS: waiting, leases, wake, signal, lane, sent, busy
-- ARGV: slot, 1 to have it looked at right now, and hints that may be lost sent again
-- Returns 1 when the lane has work.
if redis.call('EXISTS', waiting, leases) == 0 then return 0 end
local now = now_ms()
begin(wake)
if ARGV[2] == '1' then
  local queue = redis.call('HGET', lane, 'queue') or ''
  for _, token in ipairs(redis.call('ZRANGE', sent, 0, -1)) do
    redis.call('ZREM', busy .. queue, token)
  end
  redis.call('DEL', sent)
  redis.call('HDEL', lane, 'unanswered')
end
if ARGV[2] == '1' or not redis.call('ZSCORE', wake, ARGV[1]) then arm(ARGV[1], now) end
return 1
