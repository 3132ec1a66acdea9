-- Writes the outcomes of a batch, all in one step, if its lease still holds: the lease is the fence.
-- KEYS: lane, leases, batch, job, dead, recordings, recording, cached, same, tomb, once, waiting, deadlines, wake, signal, receivers, outbox, receiver, senders, delivery, owing
-- ARGV: batch id, retention, prefix of reply channels, slot, compute time in us, jobs succeeded,
--       jobs failed, number of jobs, device, ceiling (0: no news, -1: none any more), the batch of
--       the same drain that begins now, which was claimed ahead of its turn, or '', then per job:
--       uid, terminal record; then per waiting client: channel, message
-- Returns 1 when written, 2 when this batch had written before, 0 when the fence was lost.
local id, keep, channels, slot = ARGV[1], retention(ARGV[2]), ARGV[3], ARGV[4]
local FIRST, count, ceiling = 12, tonumber(ARGV[8]), tonumber(ARGV[10])

if ARGV[11] ~= '' then redis.call('HDEL', batch .. ARGV[11], 'ahead') end
if not redis.call('ZSCORE', leases, id) then
  return redis.call('HEXISTS', batch .. id, 'settled') == 1 and 2 or 0
end
local now = now_ms()
redis.call('ZREM', leases, id) -- first, as a removal is allowed when memory is full
local about = redis.call('HMGET', batch .. id, 'gone', 'twins', 'digests', 'uids')
local gone, some_gone = set_of(about[1])
local last = FIRST + 2 * count - 1
local succeeded, failed = tonumber(ARGV[6]), tonumber(ARGV[7])

local twins, some_twins = twins_in(about[2])

-- The inputs of a batch with a failure are kept, before the outcomes take their place.
local function keep_inputs()
  local uids, bad, needed = uids_in(about[4]), {}, {}
  for at = FIRST, last, 2 do
    local uid = ARGV[at]
    bad[uid] = sub(ARGV[at + 1], 1, 1) == 'f'
    if bad[uid] and not gone[uid] then needed[uid] = true end
  end
  for twin, leader in pairs(twins) do
    if bad[leader] then needed[twin] = true end
  end
  if not next(needed) then return end
  local records = read(uids)
  for at, record in ipairs(records) do records[at] = record and held(record, id) and record end
  record_batch(id, uids, records, needed, now, keep)
end
if failed > 0 then keep_inputs() end

local ended, letters, of_client, dying = {}, {}, {}, {}
local function end_job(uid, record)
  local letter = sub(record, 1, 1)
  write_ended(slot, uid, record, now, letter == 'f' and keep.failed or keep.result)
  ended[#ended + 1] = uid .. letter
  if letter == 'f' then dying[#dying + 1] = uid end
  return letter
end
for at = FIRST, last, 2 do
  local uid, record = ARGV[at], ARGV[at + 1]
  if some_gone then
    local client = sub(record, REPLY_FROM, REPLY_TO)
    of_client[client] = of_client[client] or {}
    table.insert(of_client[client], uid)
  end
  if gone[uid] then
    if sub(record, 1, 1) == 's' then succeeded = succeeded - 1 else failed = failed - 1 end
  else
    end_job(uid, record)
  end
end

-- Twins get the outcome of the job that was computed in their place.
local digests, some_digests = twins_in(about[3])
local bodies = {}
if some_twins or some_digests then
  for at = FIRST, last, 2 do
    local record = ARGV[at + 1]
    local meta, history = lengths(record)
    bodies[ARGV[at]] = {sub(record, 1, 1), sub(record, HEAD + meta + history + 1)}
  end
end
if some_twins then
  local shared, back = 0, {}
  for twin, leader in pairs(twins) do
    local head = redis.call('GETRANGE', job .. twin, 0, HEAD - 1)
    if held(head, id) and not bodies[leader] then
      -- That job was cancelled before it was computed; this one is in the lane again.
      back[#back + 1] = untried(twin, head)
    elseif held(head, id) then
      local annex = annex_of(job .. twin, head)
      local letter = end_job(twin, terminal(head, annex, bodies[leader][1], now, bodies[leader][2]))
      notify(channels, head, slot, twin)
      if letter == 's' then succeeded = succeeded + 1 else failed = failed + 1 end
      shared = shared + 1
    end
  end
  if shared > 0 then redis.call('HINCRBY', lane, 'shared', shared) end
  requeue(slot, back, now)
end
if some_digests then
  local cache = redis.call('HMGET', lane, 'cache_ttl_s', 'cache_entries', 'cache_bytes')
  local ttl = tonumber(cache[1] or 0)
  for uid, digest in pairs(digests) do
    local outcome = bodies[uid]
    if redis.call('GET', same .. digest) == 'b' .. id .. uid then
      if ttl > 0 and outcome and outcome[1] == 's' then
        local entry = 'o' .. id .. outcome[2]
        redis.call('SET', same .. digest, entry, 'EX', ttl)
        shelve(cached, same, 'cached_bytes', digest, #entry, now, tonumber(cache[2]),
          tonumber(cache[3]), ttl)
      else
        redis.call('DEL', same .. digest)
      end
    end
  end
end
lay_out(dying, now, keep)
bury(ended, now, keep.failed > keep.result and #dying > 0 and keep.failed + keep.tomb
  or keep.result + keep.tomb)
post(now)
redis.call('HSET', batch .. id, 'settled', ms13(now), 'compute_us', ARGV[5])
local kept_s = #dying > 0 and keep.failed or keep.result
redis.call('EXPIRE', batch .. id, next(owed) and math.max(kept_s, keep.pending) or kept_s)

if succeeded > 0 then redis.call('HINCRBY', lane, 'succeeded', succeeded) end
if failed > 0 then redis.call('HINCRBY', lane, 'failed', failed) end
redis.call('HINCRBY', lane, 'batches', 1)
if ceiling > 0 then
  redis.call('HSET', lane, 'ceiling:' .. ARGV[9], ceiling, 'ceiling_at:' .. ARGV[9], ms13(now))
elseif ceiling < 0 then
  redis.call('HDEL', lane, 'ceiling:' .. ARGV[9], 'ceiling_at:' .. ARGV[9])
end

-- Measured rate in jobs per second, renewed about once a second; LaneFull is computed from it.
local window = redis.call('HMGET', lane, 'rate_from', 'rate_jobs')
local from, jobs = tonumber(window[1] or 0), tonumber(window[2] or 0) + #ended
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
    local client = sub(ARGV[at], REPLY_FROM - REPLY_TO - 1)
    redis.call('PUBLISH', ARGV[at], '?' .. slot .. table.concat(of_client[client] or {}))
  else
    redis.call('PUBLISH', ARGV[at], ARGV[at + 1])
  end
end
return 1
