-- Ending, burying and keeping jobs. Comes behind _outbox.lua, and like it in paragraphs.

-- Tells the client that waits for a job to read its record; `channels` is the prefix of channels.
local function notify(channels, head, slot, uid)
  local reply = sub(head, REPLY_FROM, REPLY_TO)
  if sub(reply, 1, 1) ~= ' ' then
    redis.call('PUBLISH', channels .. reply, '?' .. slot .. uid)
  end
end

-- Ends a live job outside of the settling of its batch.
local function finish(uid, head, letter, now, keep, channels, slot)
  local key = job .. uid
  write_ended(slot, uid, terminal(head, annex_of(key, head), letter, now, ''), now, keep.result)
  notify(channels, head, slot, uid)
end

-- Notes jobs that ended, each as uid and letter of its state, so that they are known to have
-- existed for some time after their records are gone. An idempotency key is held for as long, that
-- of a job with a callback until that is over too.
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
    if byte(entry, VERSION_AT) == KEYED and not calling[sub(entry, 1, 32)] then
      redis.call('EXPIRE', once .. sub(entry, 1, 32), ttl)
    end
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
  finish(uid, head, 'c', now, keep, channels, slot)
  post(now)
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
      let_go(uid, keep)
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
    members[#members + 1] = score_text(sub(entry.head, PRIORITY_FROM, LENGTH_TO), created)
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

-- Notes that a drain is over, wherever it is noted, and that its slot is free.
local function leave(slot, queue, token)
  redis.call('ZREM', sent, token)
  redis.call('ZREM', drains, token)
  if not queue then return end
  redis.call('ZREM', busy .. queue, token)
  stays_no_more(queue, slot, token)
end

-- Ends the drain of a worker that found nothing, and the flushers' interest in a lane without work.
local function end_drain(slot, queue, token)
  leave(slot, queue, token)
  if redis.call('EXISTS', leases, sent, drains) == 0 then redis.call('ZREM', wake, slot) end
end
