-- Takes the oldest jobs that may run together out of a lane, under a lease.
-- KEYS: lane, waiting, leases, sent, drains, wake, batch, job prefix
-- ARGV: slot, batch id, drain token, worker, lease in ms, TTL of expired jobs in s,
--       prefix of reply channels
-- Returns {reason, arrival of the oldest, now, jobs left, uids, records}; reason is '' when nothing
-- was taken. When nothing is left either, the drain has ended. Asked again with the same batch id
-- it returns the same batch.
local lane, waiting, leases, sent, drains, wake, batch, job =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local slot, id, token, worker, lease = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local now = now_ms()

local function read(uids)
  local records = {}
  for from = 1, #uids, CHUNK do
    local keys = {}
    for at = from, math.min(from + CHUNK - 1, #uids) do keys[#keys + 1] = job .. uids[at] end
    for _, record in ipairs(redis.call('MGET', unpack(keys))) do records[#records + 1] = record end
  end
  return records
end

local function end_drain()
  redis.call('ZREM', drains, token)
  if redis.call('EXISTS', leases, sent, drains) == 0 then redis.call('ZREM', wake, slot) end
end

local before = redis.call('HMGET', batch, 'uids', 'reason', 'oldest', 'started')
if before[1] then
  if not redis.call('ZSCORE', leases, id) then return {'', '0', ms13(now), redis.call('ZCARD', waiting), {}, {}} end
  local taken, uids, records = {}, {}, {}
  for uid in string.gmatch(before[1], '%x+') do taken[#taken + 1] = uid end
  for at, record in ipairs(read(taken)) do
    if record and string.sub(record, 1, 1) == 'r' then -- not cancelled meanwhile
      uids[#uids + 1] = taken[at]
      records[#records + 1] = record
    end
  end
  return {before[2], before[3], before[4], redis.call('ZCARD', waiting), uids, records}
end

if redis.call('ZREM', sent, token) == 1 then redis.call('HDEL', lane, 'unanswered') end
local depth = redis.call('ZCARD', waiting)
if depth == 0 then
  end_drain()
  return {'', '0', ms13(now), 0, {}, {}}
end

local policy = redis.call('HMGET', lane, 'max_batch_size', 'max_wait_ms')
local size, wait = tonumber(policy[1]), tonumber(policy[2])
local looked = redis.call('ZRANGE', waiting, 0, size - 1)
local found = read(looked)

-- Jobs that were lost with a worker may share a batch only with `cap` others of their kind.
local uids, records, bytes, passed, limit, group = {}, {}, 0, 0, size, nil
local expired = 0
for at, record in ipairs(found) do
  if record then
    local deadline = tonumber(string.sub(record, DEADLINE_FROM, DEADLINE_TO))
    local cap = string.sub(record, CAP_FROM, CAP_TO)
    if deadline > 0 and deadline <= now then
      local head = string.sub(record, 1, HEAD)
      redis.call('SET', job .. looked[at], terminal(head, meta_of(job .. looked[at], head), 'e', now, ''),
        'EX', ARGV[6])
      notify(ARGV[7], head, slot, looked[at])
      bytes, expired = bytes + #record, expired + 1
    else
      if group and cap ~= group or #uids >= limit then break end
      if not group then
        group = cap
        if tonumber(cap) > 0 then limit = math.min(size, tonumber(cap)) end
      end
      local attempts = string.format('%02d', math.min(99, tonumber(string.sub(record, ATTEMPTS_FROM, ATTEMPTS_TO)) + 1))
      local start = 'r' .. attempts .. cap .. id
      redis.call('SETRANGE', job .. looked[at], 0, start)
      uids[#uids + 1] = looked[at]
      records[#records + 1] = start .. string.sub(record, #start + 1)
      bytes = bytes + #record
    end
  end
  passed = at
end
redis.call('ZREMRANGEBYRANK', waiting, 0, passed - 1)
if bytes > 0 then redis.call('HINCRBY', lane, 'bytes', -bytes) end
if expired > 0 then redis.call('HINCRBY', lane, 'expired', expired) end

local left = depth - passed
if #uids == 0 then
  if left == 0 then end_drain() end
  return {'', '0', ms13(now), left, {}, {}}
end
local oldest = tonumber(string.sub(records[1], CREATED_FROM, CREATED_TO))
local reason = depth >= size and 'size' or now - oldest >= wait and 'timeout' or 'drain'
redis.call('HSET', batch, 'uids', table.concat(uids, ' '), 'size', #uids, 'worker', worker,
  'reason', reason, 'oldest', ms13(oldest), 'started', ms13(now))
redis.call('ZADD', leases, now + lease, id)
redis.call('ZADD', drains, now + lease, token)
redis.call('ZADD', wake, 'LT', now + lease, slot)
return {reason, ms13(oldest), ms13(now), left, uids, records}
