-- Extends the lease of a running batch and the drain that runs it, if it still holds.
-- KEYS: lane, leases, drains, busy
-- ARGV: batch id, drain token, lease in ms
-- Returns 1 when extended, 0 when the batch was settled or taken back.
if not redis.call('ZSCORE', leases, ARGV[1]) then return 0 end
begin(leases)
local expiry = now_ms() + tonumber(ARGV[3])
redis.call('ZADD', leases, expiry, ARGV[1])
redis.call('ZADD', drains, expiry, ARGV[2])
redis.call('ZADD', busy .. redis.call('HGET', lane, 'queue'), expiry, ARGV[2])
return 1
