-- Callbacks in the outbox: shared by the scripts that end jobs and by those that deliver. Comes
-- behind _prelude.lua, and like it in paragraphs.

-- Length of the callback of a record, as text, that has none.
local NO_CALLBACK = '0000'

-- The receiver that a queue of the outbox belongs to.
local function receiver_of(queue)
  return string.match(queue, '^[^#]*')
end

-- The queue of the outbox for a record's callback. Callbacks that may share a POST have one for
-- each URL.
local function queue_of(record)
  local callback = sub(record, HEAD + 1, HEAD + tonumber(sub(record, CALLBACK_FROM, CALLBACK_TO)))
  local authority = string.match(callback, '^.%a+://([^/?#]+)') or '?'
  if sub(callback, 1, 1) ~= 'm' then return authority end
  return authority .. '#' .. sub(redis.sha1hex(callback), 1, 16)
end

-- The entry for a job's callback: each run of a job that was replayed has one of its own.
local function entry_of(slot, uid, record)
  local meta, history = lengths(record)
  local times = 0
  if history > 0 then
    local story = '\n' .. sub(record, HEAD + meta + 1, HEAD + meta + history)
    times = select(2, string.gsub(story, '\nreplayed|', ''))
  end
  return slot .. uid .. string.format('%02d', times % 100)
end

-- Callbacks of jobs that ended in this script: by queue of the outbox, due times and entries; and
-- by uid the seconds that the job's idempotency key must be held.
local owed, promised = {}, {}

-- Notes the callback of a job that ends, if it asks for one; `post` puts all into the outbox.
-- Returns the terminal record, with the time of its end, and the seconds that it must be kept.
local function owe(slot, uid, record, now, ttl, keep)
  if sub(record, CALLBACK_FROM, CALLBACK_TO) == NO_CALLBACK then return record, ttl end
  local queue = queue_of(record)
  local entries = owed[queue] or {}
  owed[queue] = entries
  entries[#entries + 1] = ms13(now)
  entries[#entries + 1] = entry_of(slot, uid, record)
  promised[uid] = keep.pending + keep.tomb
  record = sub(record, 1, FINISHED_FROM - 1) .. ms13(now) .. sub(record, FINISHED_TO + 1)
  return record, math.max(ttl, keep.pending)
end

-- Sees to it that a queue of the outbox is looked at when it is due, and a sender called for it.
local OUTBOX = 'outbox' -- in place of a slot on the flushers' list
local function call_for(queue, due, now)
  local open = tonumber(redis.call('HGET', receiver .. receiver_of(queue), 'open_until') or 0)
  due = math.max(due, open)
  redis.call('ZADD', receivers, 'LT', due, queue)
  if redis.call('ZCOUNT', senders, '(' .. ms13(now), '+inf') == 0 then arm(OUTBOX, due) end
end

-- Puts the callbacks of the jobs that ended into the outbox.
local function post(now)
  for queue, entries in pairs(owed) do
    in_chunks('ZADD', outbox .. queue, entries)
    call_for(queue, now, now)
  end
end

-- Takes back the callback of a job that ended earlier.
local function withdraw(slot, uid, record)
  if sub(record, CALLBACK_FROM, CALLBACK_TO) == NO_CALLBACK then return end
  local queue, entry = queue_of(record), entry_of(slot, uid, record)
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
  if fares ~= 'd' then
    local needed = fares == 'x' and keep.dead or keep.pending
    ttl = math.max(ttl, math.min(needed, redis.call('TTL', job .. uid)))
  end
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
