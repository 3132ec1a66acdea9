-- Extends the lease of a running batch and the drain that runs it, if it still holds.
-- KEYS: leases, drains
-- ARGV: batch id, drain token, lease in ms
-- Returns 1 when extended, 0 when the batch was settled or taken back.
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
begin(KEYS[1])
local expiry = now_ms() + tonumber(ARGV[3])
redis.call('ZADD', KEYS[1], expiry, ARGV[1])
redis.call('ZADD', KEYS[2], expiry, ARGV[2])
return 1
