-- What the tombstones know of jobs without a record.
-- KEYS: tomb
-- ARGV: the uids
-- Returns per job letter of the state and end in ms, '' for a job that never existed here.
local FEW = 20 -- uids of one bucket up to which searching for each beats reading all of it
local found, buckets, counts = {}, {}, {}
for at, uid in ipairs(ARGV) do
  local bucket, rest = sub(uid, 1, BUCKET), sub(uid, BUCKET + 1)
  found[at] = ''
  buckets[bucket] = buckets[bucket] or {}
  buckets[bucket][rest] = buckets[bucket][rest] or {}
  table.insert(buckets[bucket][rest], at)
  counts[bucket] = (counts[bucket] or 0) + 1
end

-- Notes the tombstone that begins at `from`; the last one of a job is the true one.
local function note(places, text, from)
  for _, at in ipairs(places) do found[at] = sub(text, from + REST, from + TOMBSTONE - 1) end
end

local function search(text, rest, places)
  local from = string.find(text, rest, 1, true)
  while from do
    if (from - 1) % TOMBSTONE == 0 then note(places, text, from) end
    from = string.find(text, rest, from + 1, true)
  end
end

for bucket, asked in pairs(buckets) do
  local text = redis.call('GET', tomb .. bucket) or ''
  if counts[bucket] <= FEW then
    for rest, places in pairs(asked) do search(text, rest, places) end
  else
    for from = 1, #text, TOMBSTONE do
      local places = asked[sub(text, from, from + REST - 1)]
      if places then note(places, text, from) end
    end
  end
end
return found
