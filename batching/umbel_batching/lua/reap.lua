-- Takes back batches whose lease ran out: their jobs wait again, or fail after too many attempts.
-- KEYS: lane, waiting, leases, wake, signal, job prefix, batch prefix
-- ARGV: slot, most batches to take back, max_attempts, TTL in s, prefix of reply channels,
--       the outcome of a job that failed this way
-- Returns {batches taken back, jobs that wait again, jobs failed}.
local lane, waiting, leases, wake, signal, job, prefix =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local slot, max_attempts, ttl = ARGV[1], tonumber(ARGV[3]), ARGV[4]
local now = now_ms()
local lost = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, ARGV[2])
local again, failed, bytes = {}, 0, 0

local function take_back(uid, id, companions)
  local key = job .. uid
  local head = redis.call('GETRANGE', key, 0, HEAD - 1)
  -- A job that is not this batch's any more (settled, cancelled, expired) stays where it is.
  if string.sub(head, 1, 1) ~= 'r' or string.sub(head, BATCH_FROM, BATCH_TO) ~= id then return end
  local attempts = tonumber(string.sub(head, ATTEMPTS_FROM, ATTEMPTS_TO))
  if attempts >= max_attempts then
    redis.call('SET', key, terminal(head, meta_of(key, head), 'f', now, ARGV[6]), 'EX', ttl)
    notify(ARGV[5], head, slot, uid)
    failed = failed + 1
    return
  end
  -- First in halves, the last attempt alone, so that a job that kills its worker ends by itself.
  local cap = attempts + 1 >= max_attempts and 1 or math.max(1, math.ceil(companions / 2))
  redis.call('SETRANGE', key, 0, 'q' .. string.sub(head, ATTEMPTS_FROM, ATTEMPTS_TO) .. string.format('%05d', cap))
  again[#again + 1] = string.sub(head, CREATED_FROM, CREATED_TO)
  again[#again + 1] = uid
  bytes = bytes + redis.call('STRLEN', key)
end

for _, id in ipairs(lost) do
  local batch = prefix .. id
  redis.call('ZREM', leases, id)
  local known = redis.call('HMGET', batch, 'uids', 'size')
  for uid in string.gmatch(known[1] or '', '%x+') do take_back(uid, id, tonumber(known[2])) end
  if known[1] then
    redis.call('HSET', batch, 'lost', ms13(now))
    redis.call('EXPIRE', batch, ttl)
  end
end
if #lost > 0 then redis.call('HINCRBY', lane, 'leases_lost', #lost) end
if failed > 0 then redis.call('HINCRBY', lane, 'failed', failed) end
if #again > 0 then
  in_chunks('ZADD', waiting, again)
  redis.call('HINCRBY', lane, 'bytes', bytes)
  arm(wake, signal, slot, now)
end
return {#lost, #again / 2, failed}
