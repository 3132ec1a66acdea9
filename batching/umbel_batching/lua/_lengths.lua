-- Which jobs share a batch by the lengths of their inputs; claim.lua asks. Comes behind _ending.lua,
-- and like it in paragraphs. A batch is padded to its longest job, so n jobs cost n times that. Jobs
-- are told by their places in the line here; `length` has the lengths of all, by place.

-- Some jobs by length, those of one length by age; for each, where its length begins; and the lengths
-- of the first n added up.
local function in_order_of_length(places, length)
  local groups, found, sorted, begins, sums = {}, {}, {}, {}, {[0] = 0}
  for _, place in ipairs(places) do
    local its = length[place]
    if not groups[its] then
      groups[its] = {}
      found[#found + 1] = its
    end
    table.insert(groups[its], place)
  end
  table.sort(found)
  for _, its in ipairs(found) do
    local from = #sorted + 1
    for _, place in ipairs(groups[its]) do
      sorted[#sorted + 1] = place
      begins[#sorted] = from
      sums[#sorted] = sums[#sorted - 1] + its
    end
  end
  return sorted, begins, sums
end

-- Puts one job into a batch, if it has room; the first one has. batch: the places taken, `longest` of
-- them, and `most` and `cost`, its bounds.
local function add_one(batch, place, length)
  local count, longest = #batch + 1, math.max(batch.longest, length[place])
  if count > 1 and count > math.min(batch.most, batch.cost / longest) then return false end
  batch[count] = place
  batch.longest = longest
  return true
end

-- Fills a batch up with those jobs that go best with what is in it: as many as there is room for, of
-- these the ones that need the least padding, of these the oldest. Whichever of them is the longest,
-- the others are the next ones below it.
local function add_alike(batch, places, length)
  local sorted, begins, sums = in_order_of_length(places, length)
  local taken, from, to, least = #batch, 1, 0, 0
  for last = 1, #sorted do
    local longest = math.max(batch.longest, length[sorted[last]])
    local room = math.min(batch.most, math.floor(batch.cost / longest)) - taken
    if room < 1 then break end
    local start = math.max(1, last - room + 1)
    local more = last - start - (to - from)
    local waste = (taken + last - start + 1) * longest - sums[last] + sums[start - 1]
    if more > 0 or more == 0 and waste < least then from, to, least = start, last, waste end
  end
  for at = from, to do
    -- Of the shortest length the range may have left out the oldest.
    local cut = begins[at] == begins[from] and from - begins[from] or 0
    add_one(batch, sorted[at - cut], length)
  end
end

-- The jobs of the next batch, in the order of their line, among those that were looked at. The first
-- one in line is always among them, so that nobody starves; those in a hurry come next, as far as
-- they have room; the others are chosen by length, of a lower class where a higher one leaves room.
-- found: each uid, and behind it its score; apart: whether classes matter; hurry: uids; most, cost:
-- bounds of the batch, cost 0 for none; strict: whether length decides only how many there are
local function by_length(found, apart, hurry, most, cost, strict)
  local batch = {most = most, cost = cost > 0 and cost or math.huge, longest = 0}
  local length, longest_of, lines, class = {}, {}, {}, nil
  for place = 1, #found / 2 do
    local score = tonumber(found[2 * place])
    local code = score % 1 * 512
    -- As length.py says; without a length it is 0.
    longest_of[code] = longest_of[code] or math.floor(2 ^ ((code - 1) / 16))
    length[place] = longest_of[code]
    local its = apart and band_of(score) or 0
    if its ~= class then lines[#lines + 1] = {} end
    class = its
    table.insert(lines[#lines], place)
  end
  local urgent, taken = {}, {add_one(batch, 1, length)}
  for _, uid in ipairs(hurry) do urgent[uid] = true end
  for place = 2, (strict or #hurry > 0) and #length or 0 do
    if strict or urgent[found[2 * place - 1]] then taken[place] = add_one(batch, place, length) end
    if strict and not taken[place] then break end
  end
  for number, line in ipairs(strict and {} or lines) do
    local rest = {}
    for _, place in ipairs(line) do
      if not taken[place] then rest[#rest + 1] = place end
    end
    if number > 1 and rest[1] and not add_one(batch, table.remove(rest, 1), length) then break end
    add_alike(batch, rest, length)
  end
  table.sort(batch)
  for at = 1, #batch do batch[at] = found[2 * batch[at] - 1] end
  return batch
end
