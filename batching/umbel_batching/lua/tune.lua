-- Notes what a worker of an adaptive lane has learned and chosen; submit and flush go by it for a
-- while, so that nothing of workers that are gone stays in force.
-- KEYS: lane, costs
-- ARGV: lane name, kind of device, size, wait in ms, ms for which the choice holds, what was learned
-- Returns 1 when it is noted, 0 where no such lane is there or its policy is static.
local MOST_KINDS, KEPT_S = 16, 86400
local known = redis.call('HMGET', lane, 'name', 'latency_objective_ms')
if known[1] ~= ARGV[1] or tonumber(known[2] or 0) == 0 then return 0 end
local now = now_ms()
redis.call('HSET', costs, ARGV[2],
  ms13(now + tonumber(ARGV[5])) .. ' ' .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. ARGV[6])

-- A lane has work as soon as the most modest of its workers has a full batch.
local kinds, size, wait, till = {}, math.huge, math.huge, 0
local all = redis.call('HGETALL', costs)
for at = 1, #all, 2 do
  local their_till, their_size, their_wait = string.match(all[at + 1], '^(%d+) (%d+) (%d+) ')
  kinds[#kinds + 1] = {name = all[at], till = tonumber(their_till or 0)}
  if their_till and tonumber(their_till) > now then
    size, wait = math.min(size, tonumber(their_size)), math.min(wait, tonumber(their_wait))
    till = math.max(till, tonumber(their_till))
  end
end
table.sort(kinds, function(one, other) return one.till > other.till end)
for at = MOST_KINDS + 1, #kinds do redis.call('HDEL', costs, kinds[at].name) end
redis.call('EXPIRE', costs, KEPT_S)
redis.call('HSET', lane, 'tuned', string.format('%.0f %.0f %.0f', till, size, wait))
return 1
