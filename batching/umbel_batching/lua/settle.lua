-- Writes the outcomes of a batch, all in one step, if its lease still holds: the lease is the fence.
-- KEYS: lane, leases, batch, job prefix
-- ARGV: batch id, TTL in s, compute time in us, jobs succeeded, jobs failed, number of jobs,
--       slot, then per job: uid, terminal record; then per waiting client: channel, message
-- Returns 1 when written, 2 when this batch had written before, 0 when the fence was lost.
local lane, leases, batch, job = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local FIRST, id, ttl, count = 8, ARGV[1], ARGV[2], tonumber(ARGV[6])

if not redis.call('ZSCORE', leases, id) then
  return redis.call('HEXISTS', batch, 'settled') == 1 and 2 or 0
end
local now = now_ms()
redis.call('ZREM', leases, id) -- first, as a removal is allowed when memory is full
local gone, some_gone = taken_out(batch)
local last = FIRST + 2 * count - 1
local succeeded, failed = tonumber(ARGV[4]), tonumber(ARGV[5])
local of_client = {}
for at = FIRST, last, 2 do
  if some_gone then
    local client = string.sub(ARGV[at + 1], REPLY_FROM, REPLY_TO)
    local uids = of_client[client] or {}
    uids[#uids + 1] = ARGV[at]
    of_client[client] = uids
  end
  if gone[ARGV[at]] then
    if string.sub(ARGV[at + 1], 1, 1) == 's' then succeeded = succeeded - 1 else failed = failed - 1 end
  else
    redis.call('SET', job .. ARGV[at], ARGV[at + 1], 'EX', ttl)
  end
end
redis.call('HSET', batch, 'settled', ms13(now), 'compute_us', ARGV[3])
redis.call('EXPIRE', batch, ttl)

if succeeded > 0 then redis.call('HINCRBY', lane, 'succeeded', succeeded) end
if failed > 0 then redis.call('HINCRBY', lane, 'failed', failed) end
redis.call('HINCRBY', lane, 'batches', 1)

-- Measured rate in jobs per second, renewed about once a second; LaneFull is computed from it.
local window = redis.call('HMGET', lane, 'rate_from', 'rate_jobs')
local from, jobs = tonumber(window[1] or 0), tonumber(window[2] or 0) + count
if now - from >= 1000 then
  if from > 0 and now - from < 60000 then
    redis.call('HSET', lane, 'rate', string.format('%.3f', jobs * 1000 / (now - from)))
  end
  redis.call('HSET', lane, 'rate_from', ms13(now), 'rate_jobs', 0)
else
  redis.call('HSET', lane, 'rate_jobs', jobs)
end

for at = last + 1, #ARGV, 2 do
  if some_gone then
    -- The prepared message speaks for jobs that were cancelled meanwhile: have them read instead.
    local client = string.sub(ARGV[at], REPLY_FROM - REPLY_TO - 1)
    redis.call('PUBLISH', ARGV[at], '?' .. ARGV[7] .. table.concat(of_client[client] or {}))
  else
    redis.call('PUBLISH', ARGV[at], ARGV[at + 1])
  end
end
return 1
