-- Puts the callback of a job that ended into the outbox again.
-- KEYS: receivers, outbox, receiver, senders, wake, signal, undelivered, callbacks, owing
--       and behind these the job's record, its delivery and its idempotency key
-- ARGV: slot, uid
-- Returns '' when it waits, by this call or an earlier one, else why not: unknown, not ended, none.
local slot, uid = ARGV[1], ARGV[2]
local job_key, delivery_key, once_key = KEYS[10], KEYS[11], KEYS[12]
local head = redis.call('GETRANGE', job_key, 0, HEAD - 1)
if head == '' then return 'unknown' end
local letter = sub(head, 1, 1)
if letter == 'q' or letter == 'r' then return 'not ended' end
if sub(head, CALLBACK_FROM, CALLBACK_TO) == NO_CALLBACK then return 'none' end
local before = redis.call('GET', delivery_key)
if not before or sub(before, 1, 1) == 'p' then return '' end

local now = now_ms()
local record = head .. annex_of(job_key, head)
local queue, entry = queue_of(record), entry_of(slot, uid, record)
begin(receivers)
redis.call('ZREM', undelivered, entry .. ' ' .. queue)
redis.call('SET', delivery_key, delivery_text(before, head, 'p', 0, ms13(now), now,
  ms13(now) .. '|0|0|replayed'))
redis.call('PERSIST', job_key)
redis.call('PERSIST', once_key)
count_owed(receiver_of(queue), 1, redis.call('STRLEN', job_key))
redis.call('ZADD', outbox .. queue, now, entry)
redis.call('HINCRBY', callbacks, 'replayed', 1)
call_for(queue, now, now)
return ''
