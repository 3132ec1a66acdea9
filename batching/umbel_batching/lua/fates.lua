-- What the tombstones know of jobs without a record.
-- KEYS: tomb
-- ARGV: the uids
-- Returns per job letter of the state and end in ms, '' for a job that never existed here.
local found, buckets = {}, {}
for at, uid in ipairs(ARGV) do
  local bucket, rest = sub(uid, 1, BUCKET), sub(uid, BUCKET + 1)
  found[at] = ''
  buckets[bucket] = buckets[bucket] or {}
  buckets[bucket][rest] = buckets[bucket][rest] or {}
  table.insert(buckets[bucket][rest], at)
end
-- A bucket is read once for all that is asked of it; the last tombstone of a job is the true one.
for bucket, asked in pairs(buckets) do
  local text = redis.call('GET', tomb .. bucket) or ''
  for from = 1, #text, TOMBSTONE do
    local places = asked[sub(text, from, from + REST - 1)]
    for _, at in ipairs(places or {}) do found[at] = sub(text, from + REST, from + TOMBSTONE - 1) end
  end
end
return found
