-- Cancels a job that is not terminal yet, wherever it is.
-- KEYS: lane, waiting, job, batch prefix
-- ARGV: uid, TTL in s, prefix of reply channels, slot
-- Returns {1 when this call cancelled it, letter of the state it had before}; {0, ''} when unknown.
local lane, waiting, key, prefix = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local uid = ARGV[1]
local head = redis.call('GETRANGE', key, 0, HEAD - 1)
if head == '' then return {0, ''} end
local letter = string.sub(head, 1, 1)
if letter ~= 'q' and letter ~= 'r' then return {0, letter} end
if letter == 'q' then
  redis.call('ZREM', waiting, uid)
  redis.call('HINCRBY', lane, 'bytes', -redis.call('STRLEN', key))
else
  begin(waiting)
  local batch = prefix .. string.sub(head, BATCH_FROM, BATCH_TO)
  redis.call('HSET', batch, 'gone', (redis.call('HGET', batch, 'gone') or '') .. ' ' .. uid)
end
redis.call('SET', key, terminal(head, meta_of(key, head), 'c', now_ms(), ''), 'EX', ARGV[2])
redis.call('HINCRBY', lane, 'cancelled', 1)
notify(ARGV[3], head, ARGV[4], uid)
return {1, letter}
