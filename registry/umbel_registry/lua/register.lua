-- Registers one version of a model; the same content twice is no change.
-- KEYS: models, model, revision (see keys.py)
-- ARGV: name, version, digest, manifest, summary
-- Returns 1 registered, 0 already there with this digest, -1 taken by other content.
local models, model, revision = KEYS[1], KEYS[2], KEYS[3]
local name, version, digest, manifest, summary = unpack(ARGV)

local present = redis.call('HGET', model, version)
if present then
  if cjson.decode(present)['digest'] == digest then
    return 0
  end
  return -1
end

redis.call('HSET', model, version, manifest)
redis.call('HSET', models, name, summary)
redis.call('INCR', revision)
return 1
