-- What the tombstones know of jobs without a record.
-- KEYS: tomb
-- ARGV: the uids
-- Returns per job letter of the state and end in ms, '' for a job that never existed here.
local found, buckets = {}, {}
for at, uid in ipairs(ARGV) do
  local bucket = string.sub(uid, 1, BUCKET)
  if not buckets[bucket] then buckets[bucket] = redis.call('GET', tomb .. bucket) or '' end
  found[at] = ''
  local text, rest, from = buckets[bucket], string.sub(uid, BUCKET + 1), 1
  while true do
    local start = string.find(text, rest, from, true)
    if not start then break end
    if (start - 1) % TOMBSTONE == 0 then
      found[at] = string.sub(text, start + #rest, start + TOMBSTONE - 1)
    end
    from = start + 1
  end
end
return found
