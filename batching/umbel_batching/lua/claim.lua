-- Takes the jobs that run next and may run together out of a lane, under a lease.
-- KEYS: lane, waiting, leases, sent, drains, deadlines, wake, batch, job, once, same, tomb
-- ARGV: slot, batch id, drain token, worker, lease in ms, device, retention, prefix of reply
--       channels
-- Returns {reason, arrival of the oldest, now, jobs left, uids, records, ceiling}; reason is ''
-- when nothing was taken. When nothing is left either, the drain has ended. Asked again with the
-- same batch id it returns the same batch.
local slot, id, token, worker, lease = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local keep, channels = retention(ARGV[7]), ARGV[8]
local AGE_TURN = 4 -- of this many batches one takes the oldest jobs, whatever their class
local PROBE_MS = 60000 -- how often a batch above the remembered ceiling is tried
local now = now_ms()

local before = redis.call('HMGET', batch .. id, 'uids', 'reason', 'oldest', 'started', 'twins')
if before[1] then
  if not redis.call('ZSCORE', leases, id) then
    return {'', '0', ms13(now), redis.call('ZCARD', waiting), {}, {}, 0}
  end
  local taken, twins = uids_in(before[1]), twins_in(before[5])
  local uids, records = {}, {}
  for at, record in ipairs(read(taken)) do
    if record and string.sub(record, 1, 1) == 'r' and not twins[taken[at]] then
      uids[#uids + 1] = taken[at]
      records[#records + 1] = record
    end
  end
  return {before[2], before[3], before[4], redis.call('ZCARD', waiting), uids, records, 0}
end

if redis.call('ZREM', sent, token) == 1 then redis.call('HDEL', lane, 'unanswered') end
local depth = redis.call('ZCARD', waiting)
if depth == 0 then
  end_drain(slot, token)
  return {'', '0', ms13(now), 0, {}, {}, 0}
end

local policy = redis.call('HMGET', lane, 'max_batch_size', 'max_wait_ms', 'single_flight',
  'cache_ttl_s', 'ceiling:' .. ARGV[6], 'ceiling_at:' .. ARGV[6])
local size, wait = tonumber(policy[1]), tonumber(policy[2])
local shares = policy[3] == '1' or tonumber(policy[4] or 0) > 0
local limit, ceiling = size, tonumber(policy[5] or 0)
if ceiling > 0 then
  limit = math.min(size, ceiling)
  if limit < size and depth > limit and now - tonumber(policy[6]) >= PROBE_MS then
    limit = math.min(size, ceiling * 2)
    redis.call('HSET', lane, 'ceiling_at:' .. ARGV[6], ms13(now))
  end
end

-- The jobs to look at: by class, but each fourth time by arrival, so that no class starves.
local function candidates()
  local mixed, first = line_of(waiting)
  if not mixed or redis.call('HINCRBY', lane, 'turn', 1) % AGE_TURN ~= 0 then
    return redis.call('ZRANGE', waiting, 0, size - 1), first - band_of(first), not mixed
  end
  local found = {}
  for place, range in ipairs(RANGES) do
    local part = redis.call('ZRANGEBYSCORE', waiting, range[1], range[2], 'WITHSCORES', 'LIMIT', 0,
      size)
    for at = 1, #part, 2 do
      local score = tonumber(part[at + 1])
      found[#found + 1] = {part[at], score - band_of(score), place}
    end
  end
  table.sort(found, function(a, b)
    if a[2] ~= b[2] then return a[2] < b[2] end
    if a[3] ~= b[3] then return a[3] < b[3] end
    return a[1] < b[1]
  end)
  local uids = {}
  for at = 1, math.min(size, #found) do uids[at] = found[at][1] end
  return uids, found[1][2], false
end
local looked, oldest, in_line = candidates()
if not in_line then oldest = oldest_arrival(waiting) end
local near = score_of_first(deadlines)
local reason = depth >= size and 'size' or now - oldest >= wait and 'timeout'
  or near and near <= now + DEADLINE_MARGIN and 'deadline' or 'drain'

local uids, records, all, twins, digests, passed, timed, ended = {}, {}, {}, {}, {}, {}, {}, {}
local bytes, shared, group = 0, 0, nil

-- Joins a job to an identical one that is running or remembered; false when it must run itself.
local function shares_fate(uid, record, head, start)
  local meta, history = lengths(head)
  local digest = redis.sha1hex(string.sub(record, HEAD + meta + history + 1))
  local found = redis.call('GET', same .. digest)
  if found and string.sub(found, 1, 1) == 'o' then
    redis.call('SET', job .. uid, 's' .. string.sub(head, ATTEMPTS_FROM, CAP_TO)
      .. string.sub(found, 2, 33) .. string.sub(head, CREATED_FROM, DEADLINE_TO) .. ms13(now)
      .. string.sub(record, PRIORITY_FROM, HEAD + meta + history) .. string.sub(found, 34), 'EX',
      keep.result)
    notify(channels, head, slot, uid)
    ended[#ended + 1] = uid .. 's'
    shared = shared + 1
    return true
  end
  local holder, leader = string.sub(found or '', 2, 33), string.sub(found or '', 34)
  if found and holder == id then
    redis.call('SETRANGE', job .. uid, 0, start)
    all[#all + 1] = uid
    twins[#twins + 1] = uid .. ':' .. leader
    return true
  end
  if found and redis.call('ZSCORE', leases, holder) then
    redis.call('SETRANGE', job .. uid, 0, string.sub(start, 1, BATCH_FROM - 1) .. holder)
    local theirs = redis.call('HMGET', batch .. holder, 'uids', 'twins')
    redis.call('HSET', batch .. holder, 'uids', theirs[1] .. ' ' .. uid,
      'twins', (theirs[2] or '') .. ' ' .. uid .. ':' .. leader)
    return true
  end
  redis.call('SET', same .. digest, 'b' .. id .. uid, 'EX', 86400)
  digests[#digests + 1] = uid .. ':' .. digest
  return false
end

for at, record in ipairs(read(looked)) do
  local uid = looked[at]
  if not record then
    passed[#passed + 1] = uid
  else
    local head = string.sub(record, 1, HEAD)
    local deadline = tonumber(string.sub(head, DEADLINE_FROM, DEADLINE_TO))
    local cap = string.sub(head, CAP_FROM, CAP_TO)
    if deadline > 0 and deadline <= now then
      finish(uid, head, 'e', now, '', keep.result, channels, slot)
      ended[#ended + 1] = uid .. 'e'
    else
      -- Jobs that were lost with a worker share a batch only with `cap` others of their kind.
      if group and cap ~= group or #uids >= limit then break end
      if not group then
        group = cap
        if tonumber(cap) > 0 then limit = math.min(limit, tonumber(cap)) end
      end
      local attempts = string.format('%02d',
        math.min(99, tonumber(string.sub(head, ATTEMPTS_FROM, ATTEMPTS_TO)) + 1))
      local start = 'r' .. attempts .. cap .. id
      if not (shares and tonumber(cap) == 0 and shares_fate(uid, record, head, start)) then
        redis.call('SETRANGE', job .. uid, 0, start)
        uids[#uids + 1] = uid
        all[#all + 1] = uid
        records[#records + 1] = start .. string.sub(record, #start + 1)
      end
    end
    if deadline > 0 then timed[#timed + 1] = uid end
    passed[#passed + 1] = uid
    bytes = bytes + #record
  end
end

if in_line then
  redis.call('ZREMRANGEBYRANK', waiting, 0, #passed - 1)
elseif #passed > 0 then
  in_chunks('ZREM', waiting, passed)
end
if #timed > 0 then in_chunks('ZREM', deadlines, timed) end
if bytes > 0 then redis.call('HINCRBY', lane, 'bytes', -bytes) end
if #ended > 0 then
  bury(ended, now, keep.result + keep.tomb)
  if #ended > shared then redis.call('HINCRBY', lane, 'expired', #ended - shared) end
  if shared > 0 then redis.call('HINCRBY', lane, 'succeeded', shared) end
  if shared > 0 then redis.call('HINCRBY', lane, 'shared', shared) end
end

local left = depth - #passed
if #uids == 0 then
  if left == 0 then end_drain(slot, token) end
  return {'', '0', ms13(now), left, {}, {}, 0}
end
redis.call('HSET', batch .. id, 'uids', table.concat(all, ' '), 'size', #all, 'worker', worker,
  'token', token, 'reason', reason, 'oldest', ms13(oldest), 'started', ms13(now))
if #twins > 0 then redis.call('HSET', batch .. id, 'twins', table.concat(twins, ' ')) end
if #digests > 0 then redis.call('HSET', batch .. id, 'digests', table.concat(digests, ' ')) end
redis.call('ZADD', leases, now + lease, id)
redis.call('ZADD', drains, now + lease, token)
redis.call('ZADD', wake, 'LT', now + lease, slot)
return {reason, ms13(oldest), ms13(now), left, uids, records, ceiling}
