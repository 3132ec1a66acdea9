-- Cancels a job that is not terminal yet, wherever it is.
-- KEYS: lane, waiting, deadlines, job, batch, tomb, once
-- ARGV: slot, uid, retention, prefix of reply channels
-- Returns {1 when this call cancelled it, letter of the state it had before}; {0, ''} when unknown.
local slot, uid, keep = ARGV[1], ARGV[2], retention(ARGV[3])
local head = redis.call('GETRANGE', job .. uid, 0, HEAD - 1)
if head == '' then return {0, ''} end
local letter = string.sub(head, 1, 1)
local live = letter == 'q' or letter == 'r'
if live then
  if letter == 'q' then
    redis.call('ZREM', waiting, uid)
    redis.call('ZREM', deadlines, uid)
    redis.call('HINCRBY', lane, 'bytes', -redis.call('STRLEN', job .. uid))
  else
    begin(waiting)
    local id = string.sub(head, BATCH_FROM, BATCH_TO)
    local gone = redis.call('HGET', batch .. id, 'gone') or ''
    redis.call('HSET', batch .. id, 'gone', gone .. ' ' .. uid)
  end
  local now = now_ms()
  finish(uid, head, 'c', now, '', keep.result, ARGV[4], slot)
  bury({uid .. 'c'}, now, keep.result + keep.tomb)
  redis.call('HINCRBY', lane, 'cancelled', 1)
end
return {live and 1 or 0, letter}
