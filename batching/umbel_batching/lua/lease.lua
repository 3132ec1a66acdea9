-- Takes callbacks that are due out of the outbox, under a lease.
-- KEYS: receivers, senders, wake, outbox, underway, parcel, receiver
-- ARGV: token of the sender, lease in ms, most POSTs, most under way to one receiver, most results
--       in one POST, ms for which the sender counts as there, name for new parcels, ms that a
--       callback is tried: what is older is handed out whatever its receiver does, to be given up
-- Returns {ms until the next is due or -1, per POST: {queue, name, end of its lease, entries}}.
-- Where the reply is lost, what it told of comes back when the lease ends.
local token, lease, room = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local most, size, there = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local too_old = tonumber(ARGV[8])
local MOST_QUEUES = 128
local URL_FROM = 43 -- where an entry has the hash of its URL
-- A place that frees at a receiver is told to the queue of that POST; others of it look for one.
local LOOK_AGAIN = 1000
local now = now_ms()
local ending = now + lease
local posts, parcels = {}, 0

begin(receivers)
redis.call('ZADD', senders, now + there, token)
redis.call('ZADD', wake, 'LT', now + there, OUTBOX)

-- How many more POSTs may go to a receiver now; if none, when to look again.
local function free_places(name)
  local about = redis.call('HMGET', receiver .. name, 'open_until', 'failures', 'limit')
  local open = tonumber(about[1] or 0)
  if open > now then return 0, open end
  -- Where the breaker was open, one POST tries whether the receiver is well again.
  local limit = tonumber(about[2] or 0) >= BREAKS and 1
    or math.min(most, tonumber(about[3] or FIRST_LIMIT))
  redis.call('ZREMRANGEBYSCORE', underway .. name, '-inf', now)
  local free = limit - redis.call('ZCARD', underway .. name)
  if free > 0 then return free end
  return 0, math.min(score_of_first(underway .. name), now + LOOK_AGAIN)
end

local function take(queue, name, entries)
  redis.call('ZADD', outbox .. queue, ending, name)
  redis.call('ZADD', underway .. receiver_of(queue), ending, name)
  redis.call('PEXPIRE', underway .. receiver_of(queue), 2 * lease)
  posts[#posts + 1] = {queue, name, ms13(ending), entries}
end

-- Puts entries into one parcel for good, so that each attempt sends the same under the same id.
local function pack(queue, entries)
  local id
  repeat -- where this call is sent again, those of the first time are there
    parcels = parcels + 1
    id = ARGV[7] .. string.format('%03d', parcels)
  until redis.call('EXISTS', parcel .. id) == 0
  redis.call('SET', parcel .. id, table.concat(entries, ' '))
  in_chunks('ZREM', outbox .. queue, entries)
  take(queue, '=' .. id, entries)
end

local function take_shared(queue, wanted, until_ms)
  local loose, urls = {}, {}
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', outbox .. queue, '-inf', until_ms, 'LIMIT', 0,
    wanted * size)) do
    if wanted == 0 then return end
    if sub(name, 1, 1) == '=' then
      local entries = {}
      for entry in string.gmatch(redis.call('GET', parcel .. sub(name, 2)) or '', '%S+') do
        entries[#entries + 1] = entry
      end
      take(queue, name, entries)
      wanted = wanted - 1
    else
      local url = sub(name, URL_FROM)
      if not loose[url] then
        loose[url] = {}
        urls[#urls + 1] = url
      end
      table.insert(loose[url], name)
      if #loose[url] == size then
        pack(queue, loose[url])
        loose[url], wanted = {}, wanted - 1
      end
    end
  end
  for _, url in ipairs(urls) do
    if wanted == 0 then return end
    if #loose[url] > 0 then
      pack(queue, loose[url])
      wanted = wanted - 1
    end
  end
end

local function take_due(queue, wanted, until_ms)
  if wanted <= 0 then return end
  if string.find(queue, '#', 1, true) then return take_shared(queue, wanted, until_ms) end
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', outbox .. queue, '-inf', until_ms, 'LIMIT', 0,
    wanted)) do
    take(queue, entry, {entry})
  end
end

local due = redis.call('ZRANGEBYSCORE', receivers, '-inf', now, 'LIMIT', 0, MOST_QUEUES)
local share = math.max(1, math.floor(room / math.max(1, #due)))
for _, queue in ipairs(due) do
  if #posts >= room then break end
  local wanted = math.min(share, room - #posts)
  local before = #posts
  take_due(queue, wanted, now - too_old)
  local free, again = free_places(receiver_of(queue))
  if free > 0 then take_due(queue, math.min(free, wanted - #posts + before), now) end
  if free > 0 or #posts > before then again = score_of_first(outbox .. queue) end
  if again then
    -- One that is still due goes behind the others.
    redis.call('ZADD', receivers, math.max(again, now), queue)
  else
    redis.call('ZREM', receivers, queue)
  end
end

local first = score_of_first(receivers)
return {first and ms13(math.max(0, first - now)) or '-1', posts}
