-- Gives a lane that is there another batching policy; the next claim goes by it.
-- KEYS: lane, wake, signal
-- ARGV: slot, lane name, policy
-- Returns 1 when something changed. A flusher looks at the lane at once, as it may be due sooner.
local slot, policy = ARGV[1], numbers(ARGV[3])
local known = redis.call('HMGET', lane, 'name', unpack(POLICY))
if known[1] ~= ARGV[2] then return 0 end

local changed = 0
for place, name in ipairs(POLICY) do
  if tonumber(known[place + 1]) ~= policy[place] then
    redis.call('HSET', lane, name, policy[place])
    changed = 1
  end
end
if changed == 1 then
  redis.call('HDEL', lane, 'tuned') -- it was chosen within other bounds
  arm(slot, now_ms())
end
return changed
