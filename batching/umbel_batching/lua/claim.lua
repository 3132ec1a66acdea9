-- Takes the jobs that run next and may run together out of a lane, under a lease.
-- KEYS: lane, waiting, leases, sent, drains, deadlines, wake, batch, job, once, same, tomb, receivers, outbox, receiver, senders, signal, owing, slots, busy, stays, idle
-- ARGV: slot, batch id, drain token, worker, lease in ms, device, retention, prefix of reply
--       channels, version that runs the batch where that is not the lane's own, else '', ms that the
--       drain stays where it finds nothing, 1 to take a full batch or nothing, and that ahead of
--       its turn, 1 where the drain was idle, size that the worker chose, for an adaptive
--       lane (0: none)
-- Returns {reason, arrival of the oldest, now, jobs left, uids, records, ceiling, 1 if the drain
-- stays}; reason is '' when nothing was taken. When nothing is left either, the drain has ended,
-- unless it stays or asked for a full batch. Asked again with the same batch id it returns the same
-- batch.
local slot, id, token, worker, lease = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local stay, ahead, was_idle = tonumber(ARGV[10]), ARGV[11] == '1', ARGV[12] == '1'
local keep, channels = retention(ARGV[7]), ARGV[8]
local AGE_TURN = 4 -- of this many batches one takes the oldest jobs, whatever their class
local PROBE_MS = 60000 -- how often a batch above the remembered ceiling is tried
local LATE_MS = 2000 -- a drain that stays and has not claimed for so long after that counts as dead
local MOST_LOOKED = 4096 -- jobs among which a batch is chosen by length, unless it is larger itself
local MOST_JOINED = 1000 -- jobs that share the fate of one running batch; it settles them all
local now = now_ms()

local before = redis.call('HMGET', batch .. id, 'uids', 'reason', 'oldest', 'started', 'twins')
if before[1] then
  if not redis.call('ZSCORE', leases, id) then
    return {'', '0', ms13(now), redis.call('ZCARD', waiting), {}, {}, 0, 0}
  end
  local taken, twins = uids_in(before[1]), twins_in(before[5])
  local uids, records = {}, {}
  for at, record in ipairs(read(taken)) do
    if record and held(record, id) and not twins[taken[at]] then
      uids[#uids + 1] = taken[at]
      records[#records + 1] = record
    end
  end
  return {before[2], before[3], before[4], redis.call('ZCARD', waiting), uids, records, 0, 0}
end

if redis.call('ZREM', sent, token) == 1 then redis.call('HDEL', lane, 'unanswered') end
local depth = redis.call('ZCARD', waiting)
local policy = redis.call('HMGET', lane, 'max_batch_size', 'max_wait_ms', 'single_flight',
  'cache_ttl_s', 'ceiling:' .. ARGV[6], 'ceiling_at:' .. ARGV[6], 'look_ahead', 'max_batch_cost',
  'queue', 'tuned', 'latency_objective_ms')
local queue = policy[9] or ''
if was_idle then stays_no_more(queue, slot, token) end

-- Whether more drains run or are called for than the workers of the queue can run side by side.
local function is_crowded()
  local there, taken = slots_of(queue, now)
  return taken > there
end

-- Has a drain that found nothing stay for work, or ends it.
local function stay_or_end()
  if stay == 0 or not policy[9] or is_crowded() then
    end_drain(slot, policy[9], token)
    return 0
  end
  redis.call('ZADD', idle, now + stay, token)
  redis.call('ZADD', stays .. queue, now + stay, slot .. token)
  redis.call('PEXPIRE', stays .. queue, stay + LATE_MS)
  for _, key in ipairs({drains, busy .. queue}) do
    redis.call('ZADD', key, now + stay + LATE_MS, token)
  end
  redis.call('ZADD', wake, 'LT', now + stay + LATE_MS, slot)
  return 1
end

local most = tonumber(policy[1] or 1)
local size, wait = in_force(most, tonumber(policy[2] or 0), policy[10], now)
local chosen = tonumber(ARGV[13])
-- A worker goes by what itself can do; others of the lane may run on another device.
if chosen > 0 and tonumber(policy[11] or 0) > 0 then size = math.min(most, chosen) end

-- What is claimed ahead waits: a batch for which another drain is on its way can begin sooner there.
if ahead and depth < size * (1 + redis.call('ZCARD', sent)) then
  return {'', '0', ms13(now), depth, {}, {}, 0, 0}
end
if depth == 0 then return {'', '0', ms13(now), 0, {}, {}, 0, stay_or_end()} end

local shares = policy[3] == '1' or tonumber(policy[4] or 0) > 0
local limit, ceiling = size, tonumber(policy[5] or 0)
if ceiling > 0 then
  limit = math.min(size, ceiling)
  if limit < size and depth > limit and now - tonumber(policy[6]) >= PROBE_MS then
    limit = math.min(size, ceiling * 2)
    redis.call('HSET', lane, 'ceiling_at:' .. ARGV[6], ms13(now))
  end
end

-- The first `most` jobs by arrival, whatever their class: each uid, and behind it its score.
local function oldest_of_all(most)
  local lines, found = {}, {}
  for place, range in ipairs(RANGES) do
    lines[place] = {at = 1, found = redis.call('ZRANGEBYSCORE', waiting, range[1], range[2],
      'WITHSCORES', 'LIMIT', 0, most)}
  end
  for at = 1, 2 * math.min(most, depth), 2 do
    local best, earliest
    for _, line in ipairs(lines) do
      local score = line.found[line.at + 1] and tonumber(line.found[line.at + 1])
      local arrival = score and math.floor(score) - band_of(score)
      if arrival and (not best or arrival < earliest) then best, earliest = line, arrival end
    end
    found[at], found[at + 1] = best.found[best.at], best.found[best.at + 1]
    best.at = best.at + 2
  end
  return found
end

-- The jobs to look at: by class, but each fourth time by arrival, so that no class starves. Where
-- jobs have lengths these are chosen from more, and are a batch already.
local function candidates()
  local mixed, _, sized = line_of(waiting)
  local by_age = mixed and redis.call('HINCRBY', lane, 'turn', 1) % AGE_TURN == 0
  local look_ahead, cost = tonumber(policy[7] or 1), tonumber(policy[8] or 0)
  if not sized or look_ahead == 1 and cost == 0 then
    if not by_age then return redis.call('ZRANGE', waiting, 0, size - 1), not mixed end
    local found, uids = oldest_of_all(size), {}
    for at = 1, #found, 2 do uids[#uids + 1] = found[at] end
    return uids, false
  end
  local most = math.max(size, math.min(look_ahead * size, MOST_LOOKED))
  local found = by_age and oldest_of_all(most) or redis.call('ZRANGE', waiting, 0, most - 1, 'WITHSCORES')
  local hurry = redis.call('ZRANGEBYSCORE', deadlines, '(' .. ms13(now), ms13(now + DEADLINE_MARGIN),
    'LIMIT', 0, most)
  return by_length(found, mixed and not by_age, hurry, limit, cost, look_ahead == 1), false
end
local looked, in_line = candidates()

local uids, records, all, twins, digests, timed, ended = {}, {}, {}, {}, {}, {}, {}
local bytes, shared, group, count = 0, 0, nil, 0
local none, starts, joined, oldest, urgent = ms13(0), {}, {}, nil, false

-- Joins a job to an identical one that is running or remembered; false when it must run itself.
local function shares_fate(uid, record, start)
  local head = sub(record, 1, HEAD)
  local meta, history = lengths(head)
  local digest = redis.sha1hex(sub(record, HEAD + meta + history + 1))
  local found = redis.call('GET', same .. digest)
  if found and sub(found, 1, 1) == 'o' then
    local outcome = 's' .. sub(head, ATTEMPTS_FROM, CAP_TO)
      .. sub(found, 2, 33) .. sub(head, CREATED_FROM, DEADLINE_TO) .. ms13(now)
      .. sub(record, PRIORITY_FROM, HEAD + meta + history) .. sub(found, 34)
    write_ended(slot, uid, outcome, now, keep.result)
    notify(channels, head, slot, uid)
    ended[#ended + 1] = uid .. 's'
    shared = shared + 1
    return true
  end
  local holder, leader = sub(found or '', 2, 33), sub(found or '', 34)
  if found and holder == id then
    redis.call('SETRANGE', job .. uid, '0', start)
    all[#all + 1] = uid
    twins[#twins + 1] = uid .. ':' .. leader
    return true
  end
  if found and redis.call('ZSCORE', leases, holder) then
    local theirs = joined[holder]
    if not theirs then
      local before = tonumber(redis.call('HGET', batch .. holder, 'joined') or 0)
      theirs = {room = MOST_JOINED - before, uids = {}, twins = {}}
      joined[holder] = theirs
    end
    if #theirs.uids < theirs.room then
      redis.call('SETRANGE', job .. uid, '0', sub(start, 1, BATCH_FROM - 1) .. holder)
      table.insert(theirs.uids, uid)
      table.insert(theirs.twins, uid .. ':' .. leader)
      return true
    end
  end
  redis.call('SET', same .. digest, 'b' .. id .. uid, 'EX', 86400)
  digests[#digests + 1] = uid .. ':' .. digest
  return false
end

-- The head that a job taken now begins with: the same for all of a cap and number of attempts.
local function start_of(record)
  local tried = sub(record, ATTEMPTS_FROM, CAP_TO)
  local start = starts[tried]
  if not start then
    local attempts = tonumber(sub(record, ATTEMPTS_FROM, ATTEMPTS_TO)) + 1
    start = 'r' .. string.format('%02d', math.min(99, attempts))
      .. sub(record, CAP_FROM, CAP_TO) .. id
    starts[tried] = start
  end
  return start
end

local found = read(looked)
for at = 1, #found do
  local uid, record = looked[at], found[at]
  if record then
    local deadline = sub(record, DEADLINE_FROM, DEADLINE_TO)
    if deadline ~= none and tonumber(deadline) <= now then
      finish(uid, sub(record, 1, HEAD), 'e', now, keep, channels, slot)
      ended[#ended + 1] = uid .. 'e'
    else
      local cap = sub(record, CAP_FROM, CAP_TO)
      -- Jobs that were lost with a worker share a batch only with `cap` others of their kind.
      if group and cap ~= group or #uids >= limit then break end
      if not group then
        group = cap
        if tonumber(cap) > 0 then limit = math.min(limit, tonumber(cap)) end
      end
      local start = start_of(record)
      if not (shares and tonumber(cap) == 0 and shares_fate(uid, record, start)) then
        redis.call('SETRANGE', job .. uid, '0', start)
        uids[#uids + 1] = uid
        all[#all + 1] = uid
        records[#records + 1] = start .. sub(record, #start + 1)
        if not oldest or not in_line then
          local arrival = sub(record, CREATED_FROM, CREATED_TO)
          if not oldest or arrival < oldest then oldest = arrival end
        end
        urgent = urgent or deadline ~= none and tonumber(deadline) <= now + DEADLINE_MARGIN
      end
    end
    if deadline ~= none then timed[#timed + 1] = uid end
    bytes = bytes + #record
  end
  count = at
end

if in_line then
  redis.call('ZREMRANGEBYRANK', waiting, 0, count - 1)
else
  for at = #looked, count + 1, -1 do looked[at] = nil end
  in_chunks('ZREM', waiting, looked)
end
if #timed > 0 then in_chunks('ZREM', deadlines, timed) end
if bytes > 0 then redis.call('HINCRBY', lane, 'bytes', -bytes) end
post(now)
if #ended > 0 then
  bury(ended, now, keep.result + keep.tomb)
  if #ended > shared then redis.call('HINCRBY', lane, 'expired', #ended - shared) end
  if shared > 0 then redis.call('HINCRBY', lane, 'succeeded', shared) end
  if shared > 0 then redis.call('HINCRBY', lane, 'shared', shared) end
end

for holder, theirs in pairs(joined) do
  if #theirs.uids > 0 then
    local before = redis.call('HMGET', batch .. holder, 'uids', 'twins')
    redis.call('HSET', batch .. holder, 'uids', before[1] .. ' ' .. table.concat(theirs.uids, ' '),
      'twins', (before[2] or '') .. ' ' .. table.concat(theirs.twins, ' '))
    redis.call('HINCRBY', batch .. holder, 'joined', #theirs.uids)
  end
end

local left = depth - count
if #uids == 0 then
  local stays_on = left == 0 and not ahead and stay_or_end() or 0
  return {'', '0', ms13(now), left, {}, {}, 0, stays_on}
end
local reason = depth >= size and 'size' or now - tonumber(oldest) >= wait and 'timeout'
  or urgent and 'deadline' or was_idle and 'idle' or 'drain'
redis.call('HSET', batch .. id, 'uids', table.concat(all, ' '), 'size', #all, 'worker', worker,
  'token', token, 'reason', reason, 'oldest', oldest, 'started', ms13(now))
if ARGV[9] ~= '' then redis.call('HSET', batch .. id, 'ran', ARGV[9]) end
if ahead then redis.call('HSET', batch .. id, 'ahead', 1) end
if #twins > 0 then redis.call('HSET', batch .. id, 'twins', table.concat(twins, ' ')) end
if #digests > 0 then redis.call('HSET', batch .. id, 'digests', table.concat(digests, ' ')) end
redis.call('ZADD', leases, now + lease, id)
redis.call('ZADD', drains, now + lease, token)
redis.call('ZADD', busy .. queue, now + lease, token)
redis.call('ZADD', wake, 'LT', now + lease, slot)
return {reason, oldest, ms13(now), left, uids, records, ceiling, 0}
