-- Which jobs share a batch by the lengths of their inputs; claim.lua asks. Comes behind _ending.lua,
-- and like it in paragraphs. A batch is padded to its longest job, so n jobs cost n times that. Jobs
-- are told by their places in the line here; `length` has the lengths of all, by place.

-- Puts one job into a batch, if it has room; the first one has. batch: the places taken, `longest` of
-- them, and `most` and `cost`, its bounds.
local function add_one(batch, place, length)
  local count, longest = #batch + 1, math.max(batch.longest, length[place])
  if count > 1 and count > math.min(batch.most, batch.cost / longest) then return false end
  batch[count] = place
  batch.longest = longest
  return true
end

-- Jobs of the places `from` to `to` that are not taken: their lengths, shortest first, and for each
-- of these the places, oldest first.
local function grouped(from, to, taken, length)
  local found, groups = {}, {}
  for place = from, to do
    if not taken[place] then
      local its = length[place]
      local group = groups[its]
      if group then
        group[#group + 1] = place
      else
        groups[its] = {place}
        found[#found + 1] = its
      end
    end
  end
  table.sort(found)
  return found, groups
end

-- Fills a batch up with those jobs that go best with what is in it: as many as there is room for, of
-- these the ones that need the least padding, of these the oldest. Whichever length is the longest,
-- the others are the next ones below it; so each is tried, and what is skipped before it only grows.
local function add_alike(batch, found, groups)
  local held, low, most, least, best, first, skipped = #batch, 1, 0, 0, 0, 1, 0
  local jobs, sums = {[0] = 0}, {[0] = 0} -- of the first so many lengths
  for at, its in ipairs(found) do
    jobs[at] = jobs[at - 1] + #groups[its]
    sums[at] = sums[at - 1] + #groups[its] * its
    local longest = math.max(batch.longest, its)
    local room = math.min(batch.most, math.floor(batch.cost / longest)) - held
    if room < 1 then break end
    local skip = math.max(0, jobs[at] - room)
    while jobs[low] <= skip do low = low + 1 end
    local count = jobs[at] - skip
    local real = sums[at] - sums[low - 1] - (skip - jobs[low - 1]) * found[low]
    local waste = (held + count) * longest - real
    if count > most or count == most and waste < least then
      most, least, best, first, skipped = count, waste, at, low, skip
    end
  end
  for at = first, best do
    local group = groups[found[at]]
    for place = 1, math.min(#group, jobs[at] - skipped) do batch[#batch + 1] = group[place] end
    batch.longest = math.max(batch.longest, found[at])
  end
end

-- Where each class of the jobs looked at ends; all count as one where classes do not matter.
local function ends_of_classes(found, apart)
  local count, ends = #found / 2, {}
  for place = 1, apart and count - 1 or 0 do
    local band = band_of(tonumber(found[2 * place]))
    if band ~= band_of(tonumber(found[2 * place + 2])) then ends[#ends + 1] = place end
  end
  ends[#ends + 1] = count
  return ends
end

-- The jobs of the next batch, in the order of their line, among those that were looked at. The first
-- one in line is always among them, so that nobody starves; those in a hurry come next, as far as
-- they have room; the others are chosen by length, of a lower class where a higher one leaves room.
-- found: each uid, and behind it its score; apart: whether classes matter; hurry: uids; most, cost:
-- bounds of the batch, cost 0 for none; strict: whether length decides only how many there are
local function by_length(found, apart, hurry, most, cost, strict)
  local batch = {most = most, cost = cost > 0 and cost or math.huge, longest = 0}
  local length, longest_of, count = {}, {}, #found / 2
  for place = 1, count do
    local code = tonumber(found[2 * place]) % 1 * 512
    local longest = longest_of[code]
    if not longest then
      longest = math.floor(2 ^ ((code - 1) / 16)) -- as length.py says; without a length it is 0
      longest_of[code] = longest
    end
    length[place] = longest
  end
  local urgent, taken = {}, {add_one(batch, 1, length)}
  for _, uid in ipairs(hurry) do urgent[uid] = true end
  for place = 2, (strict or #hurry > 0) and count or 0 do
    if strict or urgent[found[2 * place - 1]] then taken[place] = add_one(batch, place, length) end
    if strict and not taken[place] then break end
  end
  local from = 1
  for _, to in ipairs(strict and {} or ends_of_classes(found, apart)) do
    local next_one = from
    while taken[next_one] do next_one = next_one + 1 end
    if from > 1 and next_one <= to then
      if not add_one(batch, next_one, length) then break end
      taken[next_one] = true
    end
    add_alike(batch, grouped(from, to, taken, length))
    from = to + 1
  end
  table.sort(batch)
  for at = 1, #batch do batch[at] = found[2 * batch[at] - 1] end
  return batch
end
