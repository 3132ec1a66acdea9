-- Cancels a job that is not terminal yet, wherever it is.
-- KEYS: lane, waiting, deadlines, job, batch, tomb, once, receivers, outbox, receiver, senders, wake, signal, owing
-- ARGV: slot, uid, retention, prefix of reply channels
-- Returns {1 when this call cancelled it, letter of the state it had before}; {0, ''} when unknown.
local slot, uid, keep = ARGV[1], ARGV[2], retention(ARGV[3])
local head = redis.call('GETRANGE', job .. uid, 0, HEAD - 1)
if head == '' then return {0, ''} end
local letter = sub(head, 1, 1)
if letter ~= 'q' and letter ~= 'r' then return {0, letter} end
cancel_live(slot, uid, head, keep, ARGV[4])
return {1, letter}
