-- Lets records that were kept for a callback go when other results go.
-- KEYS: per job: its record, its delivery, its idempotency key
-- ARGV: retention
-- Returns how many were loosened.
local keep, loosened = retention(ARGV[1]), 0
for at = 1, #KEYS, 3 do
  local letter = redis.call('GETRANGE', KEYS[at], 0, 0)
  local ttl = letter == 'f' and keep.failed or keep.result
  -- One that was put back into the outbox meanwhile is needed there.
  local given_up = redis.call('GETRANGE', KEYS[at + 1], 0, 0) == 'x'
  if given_up and letter ~= 'q' and letter ~= 'r' and redis.call('TTL', KEYS[at]) > ttl then
    loosened = loosened + redis.call('EXPIRE', KEYS[at], ttl)
    redis.call('EXPIRE', KEYS[at + 1], ttl)
    redis.call('EXPIRE', KEYS[at + 2], ttl + keep.tomb)
  end
end
return loosened
