-- Deletes all that is kept of a job, but for the tombstone; cancels it first if it lives.
-- KEYS: lane, waiting, deadlines, job, batch, dead, recordings, recording, tomb, once, receivers, outbox, receiver, senders, wake, signal, delivery, undelivered, owing
-- ARGV: slot, uid, retention, prefix of reply channels
-- Returns the letter of the state it had before, '' when unknown.
local slot, uid, keep = ARGV[1], ARGV[2], retention(ARGV[3])
local head = redis.call('GETRANGE', job .. uid, 0, HEAD - 1)
if head == '' then return '' end
local letter = sub(head, 1, 1)
local annex = annex_of(job .. uid, head)
if letter == 'q' or letter == 'r' then cancel_live(slot, uid, head, keep, ARGV[4]) end
withdraw(slot, uid, head .. annex)
redis.call('DEL', job .. uid, once .. uid)
redis.call('ZREM', dead, uid)
unrecord(sub(head, BATCH_FROM, BATCH_TO), uid)
-- Batches that it was lost with were recorded too; its history names them.
local meta = lengths(head)
for id in string.gmatch(sub(annex, meta + 1), '[^|\n]*|%d+|(%x+)|[^\n]*\n') do unrecord(id, uid) end
return letter
