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

-- Reads what Retention.text writes.
local function retention(text)
  local n = numbers(text)
  return {result = n[1], tomb = n[2], failed = n[3], max_dead = n[4], max_bytes = n[5]}
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

local function score_of_first(key)
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return first[2] and tonumber(first[2])
end

-- Waiting jobs are ordered by class, then by arrival: each class has a band of scores of its own.
local BAND = 1e13
local BANDS = {h = -BAND, n = 0, l = BAND}
local RANGES = {{'-inf', '(0'}, {'0', '(1e13'}, {'1e13', '+inf'}}

local function score_text(priority, arrival)
  return string.format('%.0f', BANDS[priority] + arrival)
end

local function band_of(score)
  return score < 0 and -BAND or score >= BAND and BAND or 0
end

-- Whether jobs of more than one class wait, and the score of the first; nil where none waits.
local function line_of(key)
  local first = score_of_first(key)
  if not first then return false, nil end
  local last = tonumber(redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2])
  return band_of(first) ~= band_of(last), first
end

-- Arrival of the job that has waited longest, of whatever class; nil where none waits.
local function oldest_arrival(key)
  local mixed, first = line_of(key)
  if not first then return nil end
  if not mixed then return first - band_of(first) end
  local oldest
  for _, range in ipairs(RANGES) do
    local found = redis.call('ZRANGEBYSCORE', key, range[1], range[2], 'WITHSCORES', 'LIMIT', 0, 1)
    local arrival = found[2] and tonumber(found[2]) - band_of(tonumber(found[2]))
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

-- Tells the client that waits for a job to read its record; `channels` is the prefix of channels.
local function notify(channels, head, slot, uid)
  local reply = sub(head, REPLY_FROM, REPLY_TO)
  if sub(reply, 1, 1) ~= ' ' then
    redis.call('PUBLISH', channels .. reply, '?' .. slot .. uid)
  end
end

-- Ends a live job outside of the settling of its batch.
local function finish(uid, head, letter, now, body, ttl, channels, slot)
  local key = job .. uid
  redis.call('SET', key, terminal(head, annex_of(key, head), letter, now, body), 'EX', ttl)
  notify(channels, head, slot, uid)
end

-- Notes jobs that ended, each as uid and letter of its state, so that they are known to have
-- existed for some time after their records are gone. An idempotency key is held for as long.
local function bury(ended, now, ttl)
  local buckets, order, at = {}, {}, ms13(now)
  local bucket, list
  for place = 1, #ended do
    local entry = ended[place]
    local its = sub(entry, 1, BUCKET)
    if its ~= bucket then
      bucket, list = its, buckets[its]
      if not list then
        list = {}
        buckets[its] = list
        order[#order + 1] = its
      end
    end
    list[#list + 1] = sub(entry, BUCKET + 1)
    if byte(entry, VERSION_AT) == KEYED then redis.call('EXPIRE', once .. sub(entry, 1, 32), ttl) end
  end
  for _, bucket in ipairs(order) do
    redis.call('APPEND', tomb .. bucket, table.concat(buckets[bucket], at) .. at)
    if redis.call('TTL', tomb .. bucket) < ttl then redis.call('EXPIRE', tomb .. bucket, ttl) end
  end
end

-- Cancels a live job, wherever it is.
local function cancel_live(slot, uid, head, keep, channels)
  local now = now_ms()
  if sub(head, 1, 1) == 'q' then
    redis.call('ZREM', waiting, uid)
    redis.call('ZREM', deadlines, uid)
    redis.call('HINCRBY', lane, 'bytes', -redis.call('STRLEN', job .. uid))
  else
    begin(waiting)
    local id = sub(head, BATCH_FROM, BATCH_TO)
    local gone = redis.call('HGET', batch .. id, 'gone') or ''
    redis.call('HSET', batch .. id, 'gone', gone .. ' ' .. uid)
  end
  finish(uid, head, 'c', now, '', keep.result, channels, slot)
  bury({uid .. 'c'}, now, keep.result + keep.tomb)
  redis.call('HINCRBY', lane, 'cancelled', 1)
end

-- The uids in a text, as a list, each once: a key that is used anew may join a batch again.
local function uids_in(text)
  local uids, seen = {}, {}
  for uid in string.gmatch(text or '', '%x+') do
    if not seen[uid] then uids[#uids + 1] = uid end
    seen[uid] = true
  end
  return uids
end

-- The uids in a text, as a set, and whether there are any.
local function set_of(text)
  local set = {}
  for uid in string.gmatch(text or '', '%x+') do set[uid] = true end
  return set, next(set) ~= nil
end

-- The twins of a batch: uid of each -> uid of the job whose outcome it shares.
local function twins_in(text)
  local twins = {}
  for twin, leader in string.gmatch(text or '', '(%x+):(%x+)') do twins[twin] = leader end
  return twins, next(twins) ~= nil
end

-- Puts `name` on a shelf that is bounded in number and bytes: the oldest give way.
-- shelf: sorted set of "name|bytes"; prefix: of the keys that hold the things themselves;
-- counter: field of the lane that counts the bytes.
local function shelve(shelf, prefix, counter, name, bytes, now, most, most_bytes, ttl)
  if redis.call('EXISTS', shelf) == 0 then redis.call('HSET', lane, counter, 0) end
  local member = name .. '|' .. bytes
  local more = redis.call('ZADD', shelf, now, member) == 1 and bytes or 0
  local total = redis.call('HINCRBY', lane, counter, more)
  while true do
    local first = redis.call('ZRANGE', shelf, 0, 0, 'WITHSCORES')
    local full = redis.call('ZCARD', shelf) > most or total > most_bytes
    if not first[1] or not full and tonumber(first[2]) > now - ttl * 1000 then break end
    local old, size = string.match(first[1], '^(.*)|(%d+)$')
    redis.call('ZREM', shelf, first[1])
    -- An older entry of the same name may be left: the thing itself is the new one by now.
    if old ~= name or first[1] == member then redis.call('DEL', prefix .. old) end
    total = redis.call('HINCRBY', lane, counter, -tonumber(size))
  end
  redis.call('EXPIRE', shelf, ttl)
end

-- Keeps a batch as it was claimed: its jobs' records with their inputs. Where all of them are too
-- large, those in `needed` alone.
local function record_batch(id, uids, records, needed, now, keep)
  local function size_of(wanted)
    local bytes = 0
    for at, uid in ipairs(uids) do
      if records[at] and (not wanted or wanted[uid]) then bytes = bytes + #records[at] end
    end
    return bytes
  end
  local wanted
  local bytes = size_of()
  if bytes > keep.max_bytes then
    wanted = needed
    bytes = size_of(wanted)
  end
  if bytes == 0 or bytes > keep.max_bytes or keep.max_dead == 0 then return end
  if redis.call('EXISTS', recording .. id) == 1 then return end
  for at, uid in ipairs(uids) do
    if records[at] and (not wanted or wanted[uid]) then
      redis.call('HSET', recording .. id, uid, records[at])
    end
  end
  redis.call('EXPIRE', recording .. id, keep.failed)
  shelve(recordings, recording, 'recorded_bytes', id, bytes, now, keep.max_dead, keep.max_bytes,
    keep.failed)
end

-- Removes the input of a job from a recorded batch.
local function unrecord(id, uid)
  if redis.call('HDEL', recording .. id, uid) == 0 then return end
  if redis.call('EXISTS', recording .. id) == 1 then return end
  for _, member in ipairs(redis.call('ZRANGE', recordings, 0, -1)) do
    local name, size = string.match(member, '^(.*)|(%d+)$')
    if name == id then
      redis.call('ZREM', recordings, member)
      redis.call('HINCRBY', lane, 'recorded_bytes', -tonumber(size))
    end
  end
end

-- Makes dead letters of jobs that failed; the oldest give way and stay as long as any result.
local function lay_out(uids, now, keep)
  if #uids == 0 or keep.max_dead == 0 then return end
  local members = {}
  for _, uid in ipairs(uids) do
    members[#members + 1] = ms13(now)
    members[#members + 1] = uid
  end
  in_chunks('ZADD', dead, members)
  redis.call('ZREMRANGEBYSCORE', dead, '-inf', now - keep.failed * 1000)
  local over = redis.call('ZCARD', dead) - keep.max_dead
  if over > 0 then
    for _, uid in ipairs(redis.call('ZRANGE', dead, 0, over - 1)) do
      redis.call('EXPIRE', job .. uid, keep.result)
    end
    redis.call('ZREMRANGEBYRANK', dead, 0, over - 1)
  end
  redis.call('EXPIRE', dead, keep.failed)
end

-- A running job on its way back into the lane as if it had not been claimed.
local function untried(uid, head)
  local attempts = tonumber(sub(head, ATTEMPTS_FROM, ATTEMPTS_TO))
  return {uid = uid, head = head, start = 'q' .. string.format('%02d', math.max(0, attempts - 1))}
end

-- Puts live jobs back into their lane; each is {uid, its new record or nil for the start of one}.
local function requeue(slot, back, now)
  local members, timed, bytes = {}, {}, 0
  for _, entry in ipairs(back) do
    local key = job .. entry.uid
    if entry.record then
      redis.call('SET', key, entry.record)
      bytes = bytes + #entry.record
    else
      redis.call('SETRANGE', key, 0, entry.start)
      bytes = bytes + redis.call('STRLEN', key)
    end
    local created = tonumber(sub(entry.head, CREATED_FROM, CREATED_TO))
    local deadline = sub(entry.head, DEADLINE_FROM, DEADLINE_TO)
    members[#members + 1] = score_text(sub(entry.head, PRIORITY_FROM, PRIORITY_TO), created)
    members[#members + 1] = entry.uid
    if tonumber(deadline) > 0 then
      timed[#timed + 1] = deadline
      timed[#timed + 1] = entry.uid
    end
  end
  if #members == 0 then return end
  in_chunks('ZADD', waiting, members)
  if #timed > 0 then in_chunks('ZADD', deadlines, timed) end
  redis.call('HINCRBY', lane, 'bytes', bytes)
  arm(slot, now)
end

-- Ends the drain of a worker that found nothing, and the flushers' interest in a lane without work.
local function end_drain(slot, token)
  redis.call('ZREM', drains, token)
  if redis.call('EXISTS', leases, sent, drains) == 0 then redis.call('ZREM', wake, slot) end
end
