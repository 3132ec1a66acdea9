-- Raises one number of a hash; a smaller one changes nothing.
-- KEYS: figures (see keys.py)
-- ARGV: field, number
-- Returns 1 if it was raised.
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and tonumber(known) >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
