-- Registers one version of a model; the same content twice is no change.
-- KEYS: models, model, revision, traffic (see keys.py)
-- ARGV: name, version, digest, manifest, summary
-- Returns 1 registered, 0 already there with this digest, -1 taken by other content, -2 the name of
-- the version is that of an alias.
local models, model, revision, traffic = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, version, digest, manifest, summary = unpack(ARGV)

local present = redis.call('HGET', model, version)
if present then
  if cjson.decode(present)['digest'] == digest then
    return 0
  end
  return -1
end
local state = cjson.decode(redis.call('HGET', traffic, 'state') or '{}')
if state['aliases'] and state['aliases'][version] then
  return -2
end

redis.call('HSET', model, version, manifest)
redis.call('HSET', models, name, summary)
redis.call('INCR', revision)
return 1
