-- Callbacks in the outbox: shared by the scripts that end jobs and by those that deliver. Comes
-- behind _prelude.lua, and like it in paragraphs.

-- Length of the callback of a record, as text, that has none.
local NO_CALLBACK = '0000'

-- The receiver that a queue of the outbox belongs to.
local function receiver_of(queue)
  return string.match(queue, '^[^#]*')
end

-- The queue of the outbox for a record's callback, and what marks its URL where results may share
-- a POST: a receiver has one queue for those, and one for all others.
local function queue_of(record)
  local callback = sub(record, HEAD + 1, HEAD + tonumber(sub(record, CALLBACK_FROM, CALLBACK_TO)))
  local authority = string.match(callback, '^.%a+://([^/?#]+)') or '?'
  if sub(callback, 1, 1) ~= 'm' then return authority, '' end
  return authority .. '#', sub(redis.sha1hex(callback), 1, 16)
end

-- The entry for a job's callback: each run of a job that was replayed has one of its own.
local function entry_of(slot, uid, record)
  local meta, history = lengths(record)
  local times = 0
  if history > 0 then
    local story = '\n' .. sub(record, HEAD + meta + 1, HEAD + meta + history)
    times = select(2, string.gsub(story, '\nreplayed|', ''))
  end
  local _, url = queue_of(record)
  return slot .. uid .. string.format('%02d', times % 100) .. url
end

-- Callbacks of jobs that ended in this script: by queue of the outbox, due times and entries, and
-- bytes of their records; by uid, which jobs they are of.
local owed, owed_bytes, calling = {}, {}, {}

-- A whole number as text. Redis would print it anew, with 17 digits, for every command it stands in.
local texts = {}
local function whole(number)
  local text = texts[number]
  if not text then
    text = string.format('%.0f', number)
    texts[number] = text
  end
  return text
end

-- Writes the terminal record of a job that ends, and notes its callback, if it asks for one; `post`
-- puts all into the outbox. A record whose callback is not delivered yet stays without a limit.
local function write_ended(slot, uid, record, now, ttl)
  if sub(record, CALLBACK_FROM, CALLBACK_TO) == NO_CALLBACK then
    redis.call('SET', job .. uid, record, 'EX', whole(ttl))
    return
  end
  local queue = queue_of(record)
  local entries = owed[queue] or {}
  owed[queue] = entries
  entries[#entries + 1] = ms13(now)
  entries[#entries + 1] = entry_of(slot, uid, record)
  owed_bytes[queue] = (owed_bytes[queue] or 0) + #record
  calling[uid] = true
  redis.call('SET', job .. uid, sub(record, 1, FINISHED_FROM - 1) .. ms13(now)
    .. sub(record, FINISHED_TO + 1))
end

-- Counts what is owed to a receiver: callbacks, and bytes of their records.
local function count_owed(name, count, bytes)
  if redis.call('HINCRBY', owing, name, count) <= 0 then redis.call('HDEL', owing, name) end
  name = name .. ' bytes'
  if redis.call('HINCRBY', owing, name, bytes) <= 0 then redis.call('HDEL', owing, name) end
end

-- Sees to it that a queue of the outbox is looked at when it is due, and a sender called for it.
local OUTBOX = 'outbox' -- in place of a slot on the flushers' list
local function call_for(queue, due, now)
  local open = tonumber(redis.call('HGET', receiver .. receiver_of(queue), 'open_until') or 0)
  due = math.max(due, open)
  redis.call('ZADD', receivers, 'LT', due, queue)
  -- A sender that says it is there for longer than any does so by a clock that was set back.
  if redis.call('ZCOUNT', senders, '(' .. ms13(now), now + 60000) == 0 then arm(OUTBOX, due) end
end

-- Puts the callbacks of the jobs that ended into the outbox.
local function post(now)
  for queue, entries in pairs(owed) do
    in_chunks('ZADD', outbox .. queue, entries)
    count_owed(receiver_of(queue), #entries / 2, owed_bytes[queue])
    call_for(queue, now, now)
  end
end

-- Takes back the callback of a job that ended earlier.
local function withdraw(slot, uid, record)
  if sub(record, CALLBACK_FROM, CALLBACK_TO) == NO_CALLBACK then return end
  local queue, entry = queue_of(record), entry_of(slot, uid, record)
  local fares = redis.call('GETRANGE', delivery .. uid, 0, 0)
  if fares == '' or fares == 'p' then
    count_owed(receiver_of(queue), -1, -redis.call('STRLEN', job .. uid))
  end
  redis.call('ZREM', outbox .. queue, entry)
  redis.call('ZREM', undelivered, entry .. ' ' .. queue)
  redis.call('DEL', delivery .. uid)
end

-- Has the record of a dead letter go when other results go; one whose callback is not delivered
-- stays for that.
local function let_go(uid, keep)
  local ttl = keep.result
  local callback = redis.call('GETRANGE', job .. uid, CALLBACK_FROM - 1, CALLBACK_TO - 1)
  local fares = callback ~= NO_CALLBACK and redis.call('GETRANGE', delivery .. uid, 0, 0) or 'd'
  if fares == '' or fares == 'p' then return end
  if fares == 'x' then ttl = math.max(ttl, math.min(keep.dead, redis.call('TTL', job .. uid))) end
  redis.call('EXPIRE', job .. uid, ttl)
  if callback ~= NO_CALLBACK then redis.call('EXPIRE', delivery .. uid, ttl) end
end

-- How many POSTs a receiver is trusted with at first, and failures in a row that open its breaker.
local FIRST_LIMIT, BREAKS = 8, 5

-- Changes the delivery of a job: a letter, attempts, since when it is tried, when it is due, then
-- lines of a log, "ms|status|ms it took|words". before: as it was, or false; head: of the record.
local LONGEST_LOG = 6000
local function delivery_text(before, head, letter, attempts, since, due, line)
  before = before or 'p000' .. sub(head, FINISHED_FROM, FINISHED_TO) .. ms13(0) .. '\n'
  attempts = attempts or math.min(999, tonumber(sub(before, 2, 4)) + 1)
  local log = sub(before, 32) .. line .. '\n'
  while #log > LONGEST_LOG do log = string.gsub(log, '^[^\n]*\n', '', 1) end
  return letter .. string.format('%03d', attempts) .. (since or sub(before, 5, 17)) .. ms13(due)
    .. '\n' .. log
end
