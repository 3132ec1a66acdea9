-- Takes back batches whose lease ran out: their jobs wait again, or fail after too many attempts.
-- KEYS: lane, waiting, leases, deadlines, dead, recordings, recording, wake, signal, job, batch, tomb, once, receivers, outbox, receiver, senders, delivery, owing
-- ARGV: slot, most batches to take back, max_attempts, retention, prefix of reply channels,
--       the outcome of a job that failed this way
-- Returns {batches taken back, jobs that wait again, jobs failed}.
local MOST_JOBS = 4096 -- after so many the batches that are left wait for the next call
local slot, max_attempts = ARGV[1], tonumber(ARGV[3])
local keep, channels, outcome = retention(ARGV[4]), ARGV[5], ARGV[6]
local now = now_ms()
local lost = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, ARGV[2])
local back, dying, ended = {}, {}, {}

local function take_back(uid, record, id, about)
  if about.ahead then -- claimed and never begun: whatever ended its worker, this was not it
    back[#back + 1] = untried(uid, record)
    return
  end
  local attempts = tonumber(sub(record, ATTEMPTS_FROM, ATTEMPTS_TO))
  record = with_event(record, 'lost', now, id, about.worker, about.cause)
  local head = sub(record, 1, HEAD)
  if attempts >= max_attempts then
    local meta, history = lengths(head)
    local annex = sub(record, HEAD + 1, HEAD + meta + history)
    write_ended(slot, uid, terminal(head, annex, 'f', now, outcome), now, keep.failed)
    notify(channels, head, slot, uid)
    dying[#dying + 1] = uid
    ended[#ended + 1] = uid .. 'f'
    return
  end
  -- First in halves, the last attempt alone, so that a job that kills its worker ends by itself.
  local cap = attempts + 1 >= max_attempts and 1 or math.max(1, math.ceil(about.size / 2))
  back[#back + 1] = {uid = uid, head = head, record = 'q'
    .. sub(head, ATTEMPTS_FROM, ATTEMPTS_TO) .. string.format('%05d', cap)
    .. sub(record, BATCH_FROM)}
end

local batches = 0
for _, id in ipairs(lost) do
  if #back + #dying >= MOST_JOBS then break end
  batches = batches + 1
  redis.call('ZREM', leases, id)
  local known = redis.call('HMGET', batch .. id, 'uids', 'size', 'worker', 'cause', 'ahead')
  if known[1] then
    local about = {ahead = known[5], size = tonumber(known[2]), worker = known[3] or '',
      cause = known[4] or 'no sign of life until its lease ran out'}
    local uids, records, theirs, needed = uids_in(known[1]), {}, {}, {}
    for at, record in ipairs(read(uids)) do
      -- A job that is not this batch's any more (settled, cancelled, expired) stays where it is.
      if record and held(record, id) then
        theirs[#theirs + 1] = uids[at]
        records[#records + 1] = record
        if tonumber(sub(record, ATTEMPTS_FROM, ATTEMPTS_TO)) >= max_attempts then
          needed[uids[at]] = true
        end
      end
    end
    if not about.ahead then record_batch(id, theirs, records, needed, now, keep) end
    for at, uid in ipairs(theirs) do take_back(uid, records[at], id, about) end
    redis.call('HSET', batch .. id, 'lost', ms13(now))
    redis.call('EXPIRE', batch .. id, keep.failed)
  end
end
if batches > 0 then redis.call('HINCRBY', lane, 'leases_lost', batches) end
if #dying > 0 then
  redis.call('HINCRBY', lane, 'failed', #dying)
  lay_out(dying, now, keep)
  bury(ended, now, keep.failed + keep.tomb)
end
post(now)
requeue(slot, back, now)
return {batches, #back, #dying}
