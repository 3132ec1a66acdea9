-- Deletes all that is kept of a terminal job, but for the tombstone.
-- KEYS: lane, job, dead, recordings, recording, once
-- ARGV: uid
-- Returns the letter of its state, '' when unknown; a live job is left as it is.
local uid = ARGV[1]
local head = redis.call('GETRANGE', job .. uid, 0, HEAD - 1)
local letter = string.sub(head, 1, 1)
if head == '' or letter == 'q' or letter == 'r' then return letter end
redis.call('DEL', job .. uid, once .. uid)
redis.call('ZREM', dead, uid)
local id = string.sub(head, BATCH_FROM, BATCH_TO)
if redis.call('HDEL', recording .. id, uid) == 1 and redis.call('EXISTS', recording .. id) == 0 then
  for _, member in ipairs(redis.call('ZRANGE', recordings, 0, -1)) do
    local name, size = string.match(member, '^(.*)|(%d+)$')
    if name == id then
      redis.call('ZREM', recordings, member)
      redis.call('HINCRBY', lane, 'recorded_bytes', -tonumber(size))
    end
  end
end
return letter
