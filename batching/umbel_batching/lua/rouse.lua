-- Puts the outbox back on the flushers' list if callbacks wait and it fell off it.
-- KEYS: receivers, wake, signal
-- ARGV: 1 to have it looked at right now
-- Returns 1 when callbacks wait.
local first = score_of_first(receivers)
if not first then return 0 end
begin(wake)
if ARGV[1] == '1' then
  arm(OUTBOX, now_ms())
elseif not redis.call('ZSCORE', wake, OUTBOX) then
  arm(OUTBOX, first)
end
return 1
