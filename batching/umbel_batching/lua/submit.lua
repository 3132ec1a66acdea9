-- Puts jobs into a lane: all of them, or none.
-- KEYS: lane, waiting, sent, drains, deadlines, wake, signal, lanes, job, once, same, tomb, receivers, outbox, receiver, senders, owing, slots, busy, idle, stays, ring
-- ARGV: slot, lane name, queue, policy, retention, prefix of reply channels, most callbacks that may
--       wait for one receiver (0: none of the jobs has one), most bytes of their records, then per
--       job: uid, timeout in ms (0: none), the record behind `finished`. The uid of a job with an
--       idempotency key is a UUIDv8, and a fingerprint of 32 characters stands before its record.
-- Returns {1, depth, known} when accepted, {0, depth, jobs per second} when the lane is full,
-- {-1, name} when the slot belongs to a lane of another name, {-2, depth, known} when an
-- idempotency key was used with another input, {-3, callbacks, receiver, ms until it is tried} when
-- too many callbacks wait for a receiver. known: per job whose key was used before its place
-- and slot, uid and whether the input was the same. Sending the same call again changes nothing.
local slot, channels, FIRST = ARGV[1], ARGV[6], 9
local MEMORY_LOOK_MS, MEMORY_LOOK_BYTES = 16, 2048
local now = now_ms()

local lane_has = redis.call('HMGET', lane, 'name', 'max_batch_size', 'max_wait_ms', 'max_queue',
  'max_queue_bytes', 'bytes', 'slots', 'rate', 'cache_ttl_s', 'memory', 'look_ahead', 'max_batch_cost',
  'tuned')
if lane_has[1] and lane_has[1] ~= ARGV[2] then return {-1, lane_has[1]} end
local policy = not lane_has[1] and numbers(ARGV[4]) -- a lane keeps the one it began with
local depth = redis.call('ZCARD', waiting)

-- Whether a job of a call that is sent again has ended, and its record has gone meanwhile.
local function ended_long_ago(uid)
  local age = now - (tonumber(sub(uid, 1, 12), 16) or now) -- of a UUIDv7, by the client's clock
  if age < 1000 * retention(ARGV[5]).result then return false end
  local text = redis.call('GET', tomb .. sub(uid, 1, BUCKET)) or ''
  return string.find(text, sub(uid, BUCKET + 1), 1, true) ~= nil
end

local known, fresh, fingerprints, repeated, conflict, bytes = {}, {}, {}, false, false, 0
for at = FIRST, #ARGV, 3 do
  local uid, tail = ARGV[at], ARGV[at + 2]
  local before
  if byte(uid, VERSION_AT) == KEYED then
    local fingerprint = sub(tail, 1, 32)
    before = redis.call('GET', once .. uid)
    if before then
      local same_input = sub(before, 9) == fingerprint
      known[#known + 1] = {(at - FIRST) / 3, sub(before, 1, 8), uid, same_input and 1 or 0}
      conflict = conflict or not same_input
    elseif fingerprints[uid] then -- the same key twice in one call
      known[#known + 1] = {(at - FIRST) / 3, slot, uid, fingerprints[uid] == fingerprint and 1 or 0}
      conflict = conflict or fingerprints[uid] ~= fingerprint
      before = true
    else
      fingerprints[uid] = fingerprint
      tail = sub(tail, 33)
    end
  elseif #fresh == 0 and not repeated then
    repeated = redis.call('EXISTS', job .. uid) == 1 or ended_long_ago(uid)
  end
  if not before and not repeated then
    fresh[#fresh + 1] = at
    bytes = bytes + PRIORITY_FROM - 1 + #tail
  end
end
if conflict then return {-2, depth, known} end
if repeated or #fresh == 0 then return {1, depth, known} end

-- Whether memory runs short: what is left then is kept for bringing wake-ups to the jobs that are
-- here already, as the broker is refused writes too. Looked at anew where the last look is old.
local function is_short()
  local at, verdict = string.match(lane_has[10] or '', '^(%d+) (%d)$')
  if at and now - tonumber(at) < MEMORY_LOOK_MS and bytes < MEMORY_LOOK_BYTES then
    return verdict == '1'
  end
  local facts = redis.pcall('INFO', 'memory') -- may be forbidden; then the limit itself refuses
  facts = type(facts) == 'string' and facts or ''
  local limit = tonumber(string.match(facts, '\nmaxmemory:(%d+)') or 0)
  local used = tonumber(string.match(facts, 'used_memory:(%d+)') or 0)
  local short = limit > 0 and used + bytes > limit - math.min(limit / 4, math.max(2 ^ 20, limit / 20))
  if lane_has[1] then
    redis.call('HSET', lane, 'memory', string.format('%.0f %d', now, short and 1 or 0))
  end
  return short
end
if is_short() then
  return redis.error_reply('OOM command not allowed: the rest of maxmemory is kept for what waits')
end

local max_queue = tonumber(lane_has[4] or policy[3])
local max_bytes = tonumber(lane_has[5] or policy[4])
if depth + #fresh > max_queue or tonumber(lane_has[6] or 0) + bytes > max_bytes then
  return {0, depth, lane_has[8] or '0'}
end

-- A receiver that is behind takes no more, lest what waits for it fill the memory.
local calls, blank_head = {}, string.rep('0', PRIORITY_FROM - 1)
local most_calls, most_bytes = tonumber(ARGV[7]), tonumber(ARGV[8])
for place = 1, most_calls > 0 and #fresh or 0 do
  local tail = ARGV[fresh[place] + 2]
  if fingerprints[ARGV[fresh[place]]] then tail = sub(tail, 33) end
  local from = CALLBACK_FROM - PRIORITY_FROM + 1
  if sub(tail, from, from + CALLBACK_TO - CALLBACK_FROM) ~= NO_CALLBACK then
    local name = receiver_of(queue_of(blank_head .. sub(tail, 1, 4096)))
    calls[name] = (calls[name] or 0) + 1
  end
end
for name, count in pairs(calls) do
  local owes = redis.call('HMGET', owing, name, name .. ' bytes')
  local waiting_calls = tonumber(owes[1] or 0)
  if waiting_calls + count > most_calls or tonumber(owes[2] or 0) >= most_bytes then
    local open = tonumber(redis.call('HGET', receiver .. name, 'open_until') or 0)
    return {-3, waiting_calls, name, ms13(math.max(0, open - now))}
  end
end
local size, wait = in_force(tonumber(lane_has[2] or policy[1]),
  tonumber(lane_has[3] or policy[2]), lane_has[13], now)
local caches = tonumber(lane_has[9] or policy and policy[6] or 0) > 0
local keep = caches and retention(ARGV[5])

local arrival, none, blanks = ms13(now), ms13(0), string.rep(' ', 32)
local blank = 'q' .. '00' .. '00000' .. blanks .. arrival
-- Where a record's fields stand in what the client wrote of it.
local function in_tail(tail, from, to)
  return tonumber(sub(tail, from - PRIORITY_FROM + 1, to - PRIORITY_FROM + 1))
end

-- The outcome of an identical input that is still remembered, behind the id of its batch.
local function remembered(tail)
  local from = HEAD - PRIORITY_FROM + 1 + in_tail(tail, META_FROM, META_TO)
  local found = redis.call('GET', same .. redis.sha1hex(sub(tail, from + 1)))
  return found and sub(found, 1, 1) == 'o' and sub(found, 2) or nil, from
end

local records, members, timed, ended, first_deadline = {}, {}, {}, {}, nil
local scores = {n = arrival, n000 = arrival}
-- Lengths stand in scores only where they count: jobs that come at once are in line by their scores.
local look_ahead, cost = lane_has[11] or policy and policy[9], lane_has[12] or policy and policy[10]
local kind_to = (tonumber(look_ahead) > 1 or tonumber(cost) > 0) and LENGTH_TO - PRIORITY_FROM + 1 or 1
for place = 1, #fresh do
  local at = fresh[place]
  local uid, timeout, tail, deadline = ARGV[at], 0, ARGV[at + 2], none
  if ARGV[at + 1] ~= '0' then
    timeout = tonumber(ARGV[at + 1])
    if timeout > 0 then deadline = ms13(now + timeout) end
  end
  if fingerprints[uid] then
    redis.call('SET', once .. uid, slot .. fingerprints[uid])
    tail = sub(tail, 33)
  end
  local outcome, from
  if caches then outcome, from = remembered(tail) end
  if outcome then
    local head = 's' .. '00' .. '00000' .. sub(outcome, 1, 32) .. arrival .. deadline
      .. arrival .. sub(tail, 1, HEAD - PRIORITY_FROM + 1)
    local record = head .. sub(tail, HEAD - PRIORITY_FROM + 2, from) .. sub(outcome, 33)
    write_ended(slot, uid, record, now, keep.result)
    notify(channels, head, slot, uid)
    ended[#ended + 1] = uid .. 's'
    bytes = bytes - PRIORITY_FROM + 1 - #tail
  else
    records[#records + 1] = job .. uid
    records[#records + 1] = blank .. deadline .. none .. tail
    local kind = sub(tail, 1, kind_to)
    if not scores[kind] then scores[kind] = score_text(kind, now) end
    members[#members + 1] = scores[kind]
    members[#members + 1] = uid
    if timeout > 0 then
      timed[#timed + 1] = deadline
      timed[#timed + 1] = uid
      first_deadline = math.min(first_deadline or math.huge, now + timeout)
    end
  end
end
if not lane_has[1] then
  redis.call('HSET', lane, 'name', ARGV[2], 'queue', ARGV[3])
  for place, name in ipairs(POLICY) do redis.call('HSET', lane, name, policy[place]) end
  redis.call('HSET', lanes, slot, ARGV[2])
end
redis.call('HINCRBY', lane, 'submitted', #fresh)
post(now)
if #ended > 0 then
  bury(ended, now, keep.result + keep.tomb)
  redis.call('HINCRBY', lane, 'succeeded', #ended)
  redis.call('HINCRBY', lane, 'shared', #ended)
end
if #members == 0 then return {1, depth, known} end
for from = 1, #records, CHUNK do
  redis.call('MSET', unpack(records, from, math.min(from + CHUNK - 1, #records)))
end
in_chunks('ZADD', waiting, members)
if #timed > 0 then in_chunks('ZADD', deadlines, timed) end
redis.call('HINCRBY', lane, 'bytes', bytes)

-- Drains that stay here for work are called, one for each full batch. Where they are too few, a
-- flusher is woken: at once for a full batch that nobody was sent for, or where a worker is free; at
-- the latest after the wait; not at all while every slot that the lane may have drains it already: a
-- drain looks again by itself.
depth = depth + #members / 2
local ready, called = math.floor(depth / size), 0
while called < math.max(1, ready) and call_idle(ARGV[3], slot, now) do called = called + 1 end
if called < math.max(1, ready) then
  local pending = redis.call('ZCARD', sent)
  local room = tonumber(lane_has[7] or 1) - pending - redis.call('ZCARD', drains)
  if room > 0 or pending == 0 and not redis.call('ZSCORE', wake, slot) then
    local now_due = ready > pending + called
    if not now_due and pending == 0 then
      local there, taken = slots_of(ARGV[3], now)
      now_due = is_free(ARGV[3], there, taken, now)
    end
    arm(slot, now_due and now or now + wait)
  end
end
if first_deadline then arm(slot, math.max(now, first_deadline - DEADLINE_MARGIN)) end
return {1, depth, known}
