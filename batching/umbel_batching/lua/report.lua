-- Writes what became of a POST, if its lease still holds; a success is true whoever holds it.
-- KEYS: receivers, outbox, underway, receiver, senders, wake, signal, undelivered, callbacks, parcel, owing
--       and behind these per job: its record, its delivery, its idempotency key
-- ARGV: queue, name, end of its lease, verdict (delivered, again, dead, gone), health of the receiver
--       (well, there, failing, sick, busy, unknown), ms until the next attempt, ms that the receiver wants to
--       be left alone, most POSTs under way, retention, line for the log, then the entries of the jobs
-- Returns the undelivered callbacks that gave way, as "entry queue"; false where nothing was written.
local queue, name, ending, verdict, health = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local pause, alone, most, keep = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), retention(ARGV[9])
local FIRST_ENTRY, FIRST_JOB = 11, 12
local FIRST_PAUSE, LONGEST_PAUSE, RECEIVER_TTL = 5000, 300000, 604800
local now, about = now_ms(), receiver .. receiver_of(queue)

begin(receivers)
local holds = redis.call('ZSCORE', underway .. receiver_of(queue), name)
holds = holds and tonumber(holds) == ending
if holds then redis.call('ZREM', underway .. receiver_of(queue), name) end
local waits = redis.call('ZSCORE', outbox .. queue, name)
if not waits or not holds and verdict ~= 'delivered' then return false end

local LETTERS = {delivered = 'd', again = 'p', dead = 'x'}
local jobs, damaged = 0, false

-- Seconds that the record of a callback stays that is over: as long as that of any job that ended
-- at its time, and no less than a result is readable, as a thin callback makes one read it.
local function left(head)
  local whole = sub(head, 1, 1) == 'f' and keep.failed or keep.result
  local passed = math.floor((now - tonumber(sub(head, FINISHED_FROM, FINISHED_TO))) / 1000)
  return math.max(whole - passed, keep.result)
end

local function note(entry, job_key, delivery_key, once_key)
  local head = redis.call('GETRANGE', job_key, 0, HEAD - 1)
  if head == '' or entry_of(sub(entry, 1, 8), sub(entry, 9, 40), head .. annex_of(job_key, head)) ~= entry then
    return -- forgotten, or replayed since
  end
  local text = delivery_text(redis.call('GET', delivery_key), head, LETTERS[verdict], nil, nil,
    verdict == 'again' and now + pause or 0, ms13(now) .. '|' .. ARGV[10])
  redis.call('SET', delivery_key, text)
  if verdict ~= 'again' then
    local ttl = left(head)
    if verdict == 'dead' and keep.max_undelivered > 0 then ttl = math.max(ttl, keep.dead) end
    count_owed(receiver_of(queue), -1, -redis.call('STRLEN', job_key))
    redis.call('EXPIRE', delivery_key, ttl)
    redis.call('EXPIRE', job_key, ttl)
    redis.call('EXPIRE', once_key, ttl + keep.tomb)
  end
  if verdict == 'dead' then redis.call('ZADD', undelivered, now, entry .. ' ' .. queue) end
  jobs = jobs + 1
end
if verdict ~= 'gone' then
  for at = FIRST_ENTRY, #ARGV do
    local place = FIRST_JOB + 3 * (at - FIRST_ENTRY)
    -- One that cannot be read cannot be counted either, and must not come back for ever.
    damaged = not pcall(note, ARGV[at], KEYS[place], KEYS[place + 1], KEYS[place + 2]) or damaged
  end
end

if verdict == 'again' and (jobs > 0 or not damaged) then
  redis.call('ZADD', outbox .. queue, now + pause, name)
else
  redis.call('ZREM', outbox .. queue, name)
  if sub(name, 1, 1) == '=' then redis.call('DEL', parcel .. sub(name, 2)) end
end

-- The receiver's breaker, and how many POSTs it is trusted with: ever more while it does well.
local known = redis.call('HMGET', about, 'failures', 'open_until', 'limit')
local failures, open = tonumber(known[1] or 0), tonumber(known[2] or 0)
local limit = math.min(most, tonumber(known[3] or FIRST_LIMIT))
if health == 'well' then
  if failures > 0 or limit < most then
    redis.call('HSET', about, 'failures', 0, 'limit', math.min(most, limit + 1))
  end
elseif health == 'there' then
  if failures > 0 then redis.call('HSET', about, 'failures', 0) end
elseif health == 'failing' then
  redis.call('HSET', about, 'failures', 0, 'limit',
    math.max(math.min(most, FIRST_LIMIT / 2), math.floor(limit / 2)))
elseif health == 'busy' then
  open = math.max(open, now + alone)
  redis.call('HSET', about, 'failures', 0, 'open_until', ms13(open), 'limit',
    math.max(1, math.floor(limit / 2)))
elseif health == 'sick' then
  if open <= now then
    failures = failures + 1
    if failures >= BREAKS then
      open = now + math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ^ (failures - BREAKS))
    end
  end
  redis.call('HSET', about, 'failures', failures, 'open_until', ms13(open), 'limit',
    math.max(1, math.floor(limit / 2)))
end
redis.call('HINCRBY', about, verdict, 1)
redis.call('EXPIRE', about, RECEIVER_TTL)
redis.call('HINCRBY', callbacks, 'attempts', 1)
if jobs > 0 then redis.call('HINCRBY', callbacks, verdict, jobs) end

local first = score_of_first(outbox .. queue)
if first then
  -- What is too old is given up, however its receiver is.
  local too_old = first + keep.pending * 1000 <= now
  redis.call('ZADD', receivers, too_old and now or math.max(first, open), queue)
  call_for(queue, first, now)
else
  redis.call('ZREM', receivers, queue)
end

local gave_way = {}
if verdict == 'dead' then
  redis.call('ZREMRANGEBYSCORE', undelivered, '-inf', now - keep.dead * 1000)
  local over = redis.call('ZCARD', undelivered) - keep.max_undelivered
  if over > 0 then
    gave_way = redis.call('ZRANGE', undelivered, 0, over - 1)
    redis.call('ZREMRANGEBYRANK', undelivered, 0, over - 1)
  end
  redis.call('EXPIRE', undelivered, keep.dead)
end
return gave_way
