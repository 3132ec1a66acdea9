-- Shared by all scripts. Each gets those paragraphs that define what it uses, so a blank line ends
-- a definition: Redis makes every function anew for each call of a script. Before them stand the
-- layout of a record's head (HEAD, STATE_FROM, ...) and the keys that the script's own KEYS line
-- names: `job` is a prefix or key here because it is one there, and a function that uses it may be
-- called by those scripts only that name it.
-- Scripts never trust a client's clock: every time is the server's, in milliseconds.

local sub, byte = string.sub, string.byte
local CHUNK = 1000 -- unpack() puts its values on Lua's stack, which is bounded
local LONGEST_HISTORY, LONGEST_TEXT = 16000, 1000
local TOMBSTONE = 37 -- the rest of the uid, the letter of the state, the end in ms
-- The version of a job's uid: 8 for one with an idempotency key.
local VERSION_AT, KEYED = 13, byte('8')
-- Digits of a uid that name its bucket of tombstones, four seconds of UUIDv7, and the others.
local BUCKET, REST = 9, 23
-- A job whose deadline is this near does not wait for neighbours any longer.
local DEADLINE_MARGIN = 250

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function ms13(value)
  return string.format('%013.0f', math.min(value, 9999999999999))
end

local function numbers(text)
  local n = {}
  for number in string.gmatch(text, '%d+') do n[#n + 1] = tonumber(number) end
  return n
end

-- What BatchPolicy.text writes, in its order: fields of a lane.
local POLICY = {'max_batch_size', 'max_wait_ms', 'max_queue', 'max_queue_bytes', 'single_flight',
  'cache_ttl_s', 'cache_entries', 'cache_bytes', 'look_ahead', 'max_batch_cost',
  'latency_objective_ms'}

-- Batch size and longest wait that hold for a lane: its policy, and within it what the workers of
-- an adaptive lane chose, as long as they say so; `tuned` is what `tune` wrote.
local function in_force(size, wait, tuned, now)
  local till, size_now, wait_now = string.match(tuned or '', '^(%d+) (%d+) (%d+)$')
  if not till or tonumber(till) < now then return size, wait end
  return math.max(1, math.min(size, tonumber(size_now))), math.min(wait, tonumber(wait_now))
end

-- Reads what Retention.text writes.
local function retention(text)
  local n = numbers(text)
  return {result = n[1], tomb = n[2], failed = n[3], max_dead = n[4], max_bytes = n[5],
    pending = n[6], dead = n[7], max_undelivered = n[8]}
end

-- Redis refuses the first write of a script when its memory is full, unless it removes something,
-- and lets a script that has written go on. What gives memory back, or keeps a promise already
-- made, must not be refused: it begins with this.
local function begin(zset)
  redis.call('ZREM', zset, '')
end

-- Calls a command with a long list of values, some at a time.
local function in_chunks(command, key, values)
  for from = 1, #values, CHUNK do
    redis.call(command, key, unpack(values, from, math.min(from + CHUNK - 1, #values)))
  end
end

-- The records of the jobs `uids`; false for one that is unknown.
local function read(uids)
  local records = {}
  for from = 1, #uids, CHUNK do
    local keys = {}
    for at = from, math.min(from + CHUNK - 1, #uids) do keys[#keys + 1] = job .. uids[at] end
    for _, record in ipairs(redis.call('MGET', unpack(keys))) do records[#records + 1] = record end
  end
  return records
end

-- Sees to it that a flusher looks at the lane no later than `due`, and wakes one that sleeps.
local function arm(slot, due)
  local current = redis.call('ZSCORE', wake, slot)
  if not current or tonumber(current) > due then
    redis.call('ZADD', wake, due, slot)
    redis.call('ZADD', signal, 0, '!')
  end
end

-- Batches that the workers of a queue can run side by side, and how many of them are spoken for: by
-- drains that run, and by hints that were sent.
local function slots_of(queue, now)
  return tonumber(redis.call('GET', slots .. queue) or 0),
    redis.call('ZCOUNT', busy .. queue, '(' .. ms13(now), '+inf')
end

-- Whether a worker of a queue is free, or only stays at an empty lane.
local function is_free(queue, there, taken, now)
  return taken - redis.call('ZCOUNT', stays .. queue, '(' .. ms13(now), '+inf') < there
end

-- Notes that a drain does not stay for work any more.
local function stays_no_more(queue, slot, token)
  if redis.call('ZREM', idle, token) == 1 then redis.call('ZREM', stays .. queue, slot .. token) end
end

-- Calls one drain that stays at its empty lane for work, it and no other; false where none does.
local function call_idle(queue, slot, now)
  local found = redis.call('ZRANGEBYSCORE', idle, '(' .. ms13(now), '+inf', 'LIMIT', 0, 1)
  if not found[1] then return false end
  stays_no_more(queue, slot, found[1])
  redis.call('LPUSH', ring .. found[1], '!')
  redis.call('PEXPIRE', ring .. found[1], 1000)
  return true
end

local function score_of_first(key)
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return first[2] and tonumber(first[2])
end

-- Waiting jobs are ordered by class, then by arrival: each class has a band of scores of its own.
local BAND = 1e13
local BANDS = {h = -BAND, n = 0, l = BAND}
local RANGES = {{'-inf', '(0'}, {'0', '(1e13'}, {'1e13', '+inf'}}

-- The score of a job by its kind: its class, and the code of its length, which stands behind the
-- point. All scores are exact: 10^13 and 512 parts of one take 53 bits.
local function score_text(kind, arrival)
  local code = tonumber(sub(kind, 2)) or 0
  local score = BANDS[sub(kind, 1, 1)] + arrival
  return string.format(code > 0 and '%.9f' or '%.0f', score + code / 512)
end

local function band_of(score)
  return score < 0 and -BAND or score >= BAND and BAND or 0
end

-- Whether jobs of more than one class wait, the score of the first without its length, and whether
-- jobs have one; nil where none waits.
local function line_of(key)
  local first = score_of_first(key)
  if not first then return false, nil end
  local last = tonumber(redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2])
  return band_of(first) ~= band_of(last), math.floor(first), first % 1 + last % 1 > 0
end

-- Arrival of the job that has waited longest, of whatever class; nil where none waits.
local function oldest_arrival(key)
  local mixed, first = line_of(key)
  if not first then return nil end
  if not mixed then return first - band_of(first) end
  local oldest
  for _, range in ipairs(RANGES) do
    local found = redis.call('ZRANGEBYSCORE', key, range[1], range[2], 'WITHSCORES', 'LIMIT', 0, 1)
    local arrival = found[2] and math.floor(tonumber(found[2])) - band_of(tonumber(found[2]))
    if arrival and (not oldest or arrival < oldest) then oldest = arrival end
  end
  return oldest
end

-- Lengths of the two parts that stand between head and body.
local function lengths(head)
  return tonumber(sub(head, META_FROM, META_TO)),
    tonumber(sub(head, HISTORY_FROM, HISTORY_TO))
end

-- Meta and history of the job whose head is given; they stand right behind the head.
local function annex_of(key, head)
  local meta, history = lengths(head)
  if meta + history == 0 then return '' end
  return redis.call('GETRANGE', key, HEAD, HEAD + meta + history - 1)
end

-- The record of a live job made terminal without an outcome of the model.
local function terminal(head, annex, letter, now, body)
  return letter .. sub(head, ATTEMPTS_FROM, DEADLINE_TO) .. ms13(now)
    .. sub(head, PRIORITY_FROM) .. annex .. body
end

-- A text of others as part of a line of history.
local function plain(text)
  return (string.gsub(sub(text, 1, LONGEST_TEXT), '[|%c]', ' '))
end

-- A record with one more event in its history: "what|ms|batch|worker|cause".
local function with_event(record, what, now, batch_id, worker, cause)
  local meta, length = lengths(record)
  local from = HEAD + meta
  local line = table.concat({what, ms13(now), batch_id, plain(worker), plain(cause)}, '|') .. '\n'
  local history = sub(record, from + 1, from + length) .. line
  while #history > LONGEST_HISTORY do history = string.gsub(history, '^[^\n]*\n', '', 1) end
  return sub(record, 1, HISTORY_FROM - 1) .. string.format('%05d', #history)
    .. sub(record, HISTORY_TO + 1, from) .. history .. sub(record, from + length + 1)
end

-- Whether a record is that of a job that the running batch `id` still holds.
local function held(record, id)
  return sub(record, 1, 1) == 'r' and sub(record, BATCH_FROM, BATCH_TO) == id
end
