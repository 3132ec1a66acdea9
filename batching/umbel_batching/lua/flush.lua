-- Decides how many drains a lane needs now, notes them as sent, and sets when to look again.
-- KEYS: lane, waiting, leases, sent, drains, deadlines, wake, idle, slots, busy, stays
-- ARGV: slot, worker slots that serve the queue, ms after which a hint counts as lost, drain tokens
-- Returns {number of tokens used, leases that ran out, name, queue, deadlines that passed, slots of
-- the empty lanes of idle drains that are in the way, one for each of them}. Running it twice, or in two flushers at once, sends
-- nothing twice: what was sent is counted.
local slot, most, patience = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local FIRST = 4
local now = now_ms()

-- Its own tokens can be there already: the reply was lost, or it asks again after reaping.
if #ARGV >= FIRST then redis.call('ZREM', sent, unpack(ARGV, FIRST)) end
local unanswered = redis.call('ZREMRANGEBYSCORE', sent, '-inf', now)
redis.call('ZREMRANGEBYSCORE', drains, '-inf', now)
redis.call('ZREMRANGEBYSCORE', idle, '-inf', now)
local known = redis.call('HMGET', lane, 'name', 'queue', 'max_batch_size', 'max_wait_ms', 'slots',
  'unanswered', 'tuned')
if not known[1] then
  redis.call('ZREM', wake, slot)
  return {0, 0, '', '', 0, {}}
end
local queue = known[2]
if #ARGV >= FIRST then redis.call('ZREM', busy .. queue, unpack(ARGV, FIRST)) end
for _, key in ipairs({busy .. queue, stays .. queue}) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
end
if known[5] ~= ARGV[2] then redis.call('HSET', lane, 'slots', ARGV[2]) end

local depth = redis.call('ZCARD', waiting)
local size, wait = in_force(tonumber(known[3]), tonumber(known[4]), known[7], now)
local pending, running = redis.call('ZCARD', sent), redis.call('ZCARD', drains)
local oldest = depth > 0 and oldest_arrival(waiting) or now
local deadline = score_of_first(deadlines)
local there, taken = slots_of(queue, now)
local due = depth >= size or depth > 0 and (now - oldest >= wait
  or pending == 0 and is_free(queue, there, taken, now)) or deadline and deadline <= now + DEADLINE_MARGIN
local wanted = 0
if due then
  wanted = math.min(math.max(1, math.floor(depth / size)) - pending, most - pending - running,
    #ARGV - FIRST + 1)
  wanted = math.max(0, wanted)
end

-- A hint that nobody answers is sent again, ever more patiently: the workers may all be busy.
local missed = tonumber(known[6] or 0)
if unanswered > 0 and running == 0 then missed = math.min(missed + 1, 5)
elseif running > 0 then missed = 0 end
if missed ~= tonumber(known[6] or 0) then redis.call('HSET', lane, 'unanswered', missed) end
for at = FIRST, FIRST + wanted - 1 do
  redis.call('ZADD', sent, now + patience * 2 ^ missed, ARGV[at])
  redis.call('ZADD', busy .. queue, now + patience * 2 ^ missed, ARGV[at])
end
-- A hint waits in the broker while all slots are taken: those that only stay for work give theirs up.
local in_the_way = {}
if wanted > 0 and taken + wanted > there then
  for _, member in ipairs(redis.call('ZRANGE', stays .. queue, 0, taken + wanted - there - 1)) do
    in_the_way[#in_the_way + 1] = sub(member, 1, #slot)
  end
end

local next_look
local function no_later_than(time)
  if time and (not next_look or time < next_look) then next_look = time end
end
no_later_than(score_of_first(leases))
no_later_than(score_of_first(sent))
no_later_than(score_of_first(drains))
if depth > 0 and not due then no_later_than(oldest + wait) end
if deadline then
  no_later_than(due and deadline or deadline - DEADLINE_MARGIN)
end
if depth > 0 then no_later_than(now + patience) end
if next_look then
  redis.call('ZADD', wake, next_look, slot)
else
  redis.call('ZREM', wake, slot)
end
return {wanted, redis.call('ZCOUNT', leases, '-inf', now), known[1], known[2],
  redis.call('ZCOUNT', deadlines, '-inf', now), in_the_way}
