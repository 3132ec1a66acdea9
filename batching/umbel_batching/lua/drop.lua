-- Removes a dead letter; its record stays as long as any other result.
-- KEYS: lane, dead, job, recordings, recording, delivery
-- ARGV: uid, retention
-- Returns 1 when it was one.
local uid = ARGV[1]
if redis.call('ZREM', dead, uid) == 0 then return 0 end
local id = redis.call('GETRANGE', job .. uid, BATCH_FROM - 1, BATCH_TO - 1)
if id ~= '' then unrecord(id, uid) end
let_go(uid, retention(ARGV[2]))
return 1
