-- Ends the turn of a sender; a flusher calls one again when a callback is due.
-- KEYS: receivers, senders, wake, signal
-- ARGV: token of the sender
-- Returns the number of queues of the outbox that wait.
begin(receivers)
redis.call('ZREM', senders, ARGV[1])
local first = score_of_first(receivers)
if first then arm(OUTBOX, first) end
return redis.call('ZCARD', receivers)
