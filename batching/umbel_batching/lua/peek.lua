-- Reads records without changing them.
-- KEYS: the jobs
-- ARGV: 'state' for the state's letter, 'head' for head and meta, 'outcome' for the whole record of
--       a terminal job and the head of any other
-- Returns one text per job, '' for a job that is unknown.
local found = {}
for at, key in ipairs(KEYS) do
  if ARGV[1] == 'state' then
    found[at] = redis.call('GETRANGE', key, 0, 0)
  else
    local head = redis.call('GETRANGE', key, 0, HEAD - 1)
    local letter = sub(head, 1, 1)
    if head ~= '' and ARGV[1] == 'outcome' and letter ~= 'q' and letter ~= 'r' then
      found[at] = redis.call('GET', key)
    elseif head ~= '' then
      found[at] = head .. annex_of(key, head)
    else
      found[at] = ''
    end
  end
end
return found
