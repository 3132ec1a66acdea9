-- Decides how many senders are called for the outbox now, and when to look again.
-- KEYS: receivers, senders, wake, outbox
-- ARGV: senders that are there, ms after which a hint counts as lost, tokens for them
-- Returns the number of tokens used. Where no sender is there none is called: it looks by itself
-- when it starts.
local there, patience, FIRST = tonumber(ARGV[1]), tonumber(ARGV[2]), 3
local MANY, CROWD = 8, 64 -- receivers, or callbacks of one, from which all senders are called
local now = now_ms()
if #ARGV >= FIRST then redis.call('ZREM', senders, unpack(ARGV, FIRST)) end
redis.call('ZREMRANGEBYSCORE', senders, '-inf', now)
redis.call('ZREMRANGEBYSCORE', senders, now + 60000, '+inf') -- by a clock that was set back
local first = redis.call('ZRANGE', receivers, 0, 0, 'WITHSCORES')
local look, wanted = first[2] and tonumber(first[2]), 0
if look and look <= now then
  local busy = redis.call('ZCOUNT', receivers, '-inf', now) >= MANY
    or redis.call('ZCARD', outbox .. first[1]) >= CROWD
  local enough = busy and there or math.min(there, 1)
  wanted = math.max(0, math.min(enough - redis.call('ZCARD', senders), #ARGV - FIRST + 1))
  for at = FIRST, FIRST + wanted - 1 do redis.call('ZADD', senders, now + patience, ARGV[at]) end
  look = score_of_first(senders) or now + patience
else
  -- What comes while a sender is there arms nothing: look when it should have looked again itself.
  local ends = score_of_first(senders)
  look = ends and math.min(look or ends, ends) or look
end
if look then
  redis.call('ZADD', wake, look, OUTBOX)
else
  redis.call('ZREM', wake, OUTBOX)
end
return wanted
