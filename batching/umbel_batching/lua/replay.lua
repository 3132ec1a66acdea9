-- Puts a dead letter back into its lane under its own id, alone in its batch.
-- KEYS: lane, waiting, deadlines, dead, recording, wake, signal, job, once, delivery, undelivered, outbox, owing
-- ARGV: slot, uid
-- Returns '' when done, by this call or an earlier one, else why not: unknown, not dead,
-- not recorded, full.
local slot, uid = ARGV[1], ARGV[2]
local record = redis.call('GET', job .. uid)
if not record then return 'unknown' end
local letter, meta, history = sub(record, 1, 1), lengths(record)
if letter == 'q' or letter == 'r' then
  -- The reply to the call that put it back may have been lost.
  local story = '\n' .. sub(record, HEAD + meta + 1, HEAD + meta + history)
  return string.find(story, '\nreplayed|', 1, true) and '' or 'not dead'
end
if letter ~= 'f' or not redis.call('ZSCORE', dead, uid) then return 'not dead' end
local input = redis.call('HGET', recording .. sub(record, BATCH_FROM, BATCH_TO), uid)
if not input then return 'not recorded' end
local room = redis.call('HMGET', lane, 'max_queue', 'max_queue_bytes', 'bytes')
if redis.call('ZCARD', waiting) >= tonumber(room[1])
  or tonumber(room[3] or 0) + #input > tonumber(room[2]) then
  return 'full'
end
local now = now_ms()
redis.call('ZREM', dead, uid)
withdraw(slot, uid, record)
-- The history is the terminal record's: it knows how the last attempt ended.
local input_meta, input_history = lengths(input)
record = sub(record, 1, HEAD + meta + history)
  .. sub(input, HEAD + input_meta + input_history + 1)
record = with_event(record, 'replayed', now, sub(record, BATCH_FROM, BATCH_TO), '', '')
record = 'q00' .. '00001' .. sub(record, BATCH_FROM, CREATED_TO) .. ms13(0) .. ms13(0)
  .. sub(record, PRIORITY_FROM)
requeue(slot, {{uid = uid, head = sub(record, 1, HEAD), record = record}}, now)
redis.call('PERSIST', once .. uid)
redis.call('HINCRBY', lane, 'failed', -1)
redis.call('HINCRBY', lane, 'replayed', 1)
return ''
