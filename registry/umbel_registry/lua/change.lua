-- Changes what can move about a model, if nobody else has changed it since it was read.
-- KEYS: traffic, revision, audit, model (see keys.py)
-- ARGV: id of the change, number of changes when it was read, the new state, a line for the audit
--       trail or '', most lines kept, a number that the new one is above, then names of aliases
-- Returns the new number; -1 when it was changed meanwhile, -2 when an alias is named as a version.
-- Sent again with the same id it changes nothing and returns the number it got.
local traffic, revision, audit, model = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, expected, state, line, most = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local FIRST_NAME, REMEMBERED = 7, 640 -- characters: the ids of the last changes

local known = redis.call('HMGET', traffic, 'number', 'ids')
local number, ids = tonumber(known[1] or 0) or 0, known[2] or ''
local before = string.match(ids, id .. '=(%d+)')
if before then return tonumber(before) end
if number ~= expected then return -1 end
for at = FIRST_NAME, #ARGV do
  if redis.call('HEXISTS', model, ARGV[at]) == 1 then return -2 end
end

number = math.max(number, tonumber(ARGV[6])) + 1
ids = string.sub(id .. '=' .. number .. ' ' .. ids, 1, REMEMBERED)
redis.call('HSET', traffic, 'number', number, 'ids', ids, 'state', state)
if line ~= '' then
  redis.call('LPUSH', audit, line)
  redis.call('LTRIM', audit, 0, tonumber(most) - 1)
end
redis.call('INCR', revision)
return number
