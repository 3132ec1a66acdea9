-- Reads records, no further than some bytes, and how their callbacks fare.
-- KEYS: per job: its record, its delivery
-- ARGV: most bytes of a record
-- Returns per job: record, delivery; '' for what is not there.
local found, last = {}, tonumber(ARGV[1]) - 1
for at = 1, #KEYS, 2 do
  found[at] = redis.call('GETRANGE', KEYS[at], 0, last)
  found[at + 1] = redis.call('GET', KEYS[at + 1]) or ''
end
return found
