-- Puts jobs into a lane: all of them, or none.
-- KEYS: lane, waiting, sent, drains, wake, signal, lanes, job prefix
-- ARGV: slot, lane name, queue, max_batch_size, max_wait_ms, max_queue, max_queue_bytes,
--       then per job: uid, timeout in ms (0: none), the record behind `finished`
-- Returns {1, depth} when accepted, {0, depth, jobs per second} when the lane is full, {-1, name}
-- when the slot belongs to a lane of another name. Sending the same call again changes nothing.
local lane, waiting, sent, drains, wake, signal, lanes, job =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local FIRST = 8
local count = (#ARGV - FIRST + 1) / 3
local now = now_ms()

local known = redis.call('HMGET', lane, 'name', 'max_batch_size', 'max_wait_ms', 'max_queue',
  'max_queue_bytes', 'bytes', 'slots', 'rate')
if known[1] and known[1] ~= ARGV[2] then return {-1, known[1]} end
local depth = redis.call('ZCARD', waiting)
if count == 0 then return {1, depth} end
if redis.call('EXISTS', job .. ARGV[FIRST]) == 1 then return {1, depth} end

local bytes = count * (REPLY_FROM - 1)
for at = FIRST + 2, #ARGV, 3 do bytes = bytes + #ARGV[at] end
local max_queue, max_bytes = tonumber(known[4] or ARGV[6]), tonumber(known[5] or ARGV[7])
if depth + count > max_queue or tonumber(known[6] or 0) + bytes > max_bytes then
  return {0, depth, known[8] or '0'}
end

local arrival = ms13(now)
local blank = 'q' .. '00' .. '00000' .. string.rep(' ', 32) .. arrival
local none = ms13(0)
local members = {}
for at = FIRST, #ARGV, 3 do
  local timeout = tonumber(ARGV[at + 1])
  local deadline = timeout > 0 and ms13(now + timeout) or none
  redis.call('SET', job .. ARGV[at], blank .. deadline .. none .. ARGV[at + 2])
  members[#members + 1] = arrival
  members[#members + 1] = ARGV[at]
end
in_chunks('ZADD', waiting, members)
if not known[1] then
  redis.call('HSET', lane, 'name', ARGV[2], 'queue', ARGV[3], 'max_batch_size', ARGV[4],
    'max_wait_ms', ARGV[5], 'max_queue', ARGV[6], 'max_queue_bytes', ARGV[7])
  redis.call('HSET', lanes, ARGV[1], ARGV[2])
end
redis.call('HINCRBY', lane, 'bytes', bytes)
redis.call('HINCRBY', lane, 'submitted', count)

-- Wake a flusher at once for a full batch that nobody was sent for, at the latest after the wait;
-- not at all while every worker slot already drains this lane: a drain looks again by itself.
depth = depth + count
local size, wait = tonumber(known[2] or ARGV[4]), tonumber(known[3] or ARGV[5])
local pending = redis.call('ZCARD', sent)
local room = tonumber(known[7] or 1) - pending - redis.call('ZCARD', drains)
if room > 0 or pending == 0 and not redis.call('ZSCORE', wake, ARGV[1]) then
  local full = math.floor(depth / size) > pending
  arm(wake, signal, ARGV[1], full and now or now + wait)
end
return {1, depth}
