-- Shared by all scripts; the layout of a record's head (HEAD, STATE_FROM, ...) stands before it.
-- Scripts never trust a client's clock: every time is the server's, in milliseconds.

local CHUNK = 1000 -- unpack() puts its values on Lua's stack, which is bounded

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function ms13(value)
  return string.format('%013.0f', math.min(value, 9999999999999))
end

-- Redis refuses the first write of a script when its memory is full, unless it removes something,
-- and lets a script that has written go on. What gives memory back, or keeps a promise already
-- made, must not be refused: it begins with this.
local function begin(zset)
  redis.call('ZREM', zset, '')
end

-- Calls a command with a long list of values, some at a time.
local function in_chunks(command, key, values)
  for from = 1, #values, CHUNK do
    redis.call(command, key, unpack(values, from, math.min(from + CHUNK - 1, #values)))
  end
end

-- Sees to it that a flusher looks at the lane no later than `due`, and wakes one that sleeps.
local function arm(wake, signal, slot, due)
  local current = redis.call('ZSCORE', wake, slot)
  if not current or tonumber(current) > due then
    redis.call('ZADD', wake, due, slot)
    redis.call('ZADD', signal, 0, '!')
  end
end

local function score_of_first(key)
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return first[2] and tonumber(first[2])
end

-- The record of a live job made terminal without an outcome of the model.
local function terminal(head, meta, letter, now, body)
  return letter .. string.sub(head, ATTEMPTS_FROM, DEADLINE_TO) .. ms13(now)
    .. string.sub(head, REPLY_FROM) .. meta .. body
end

-- Meta of the job whose head is given; it stands right behind the head.
local function meta_of(key, head)
  local length = tonumber(string.sub(head, META_FROM, META_TO))
  if length == 0 then return '' end
  return redis.call('GETRANGE', key, HEAD, HEAD + length - 1)
end

-- Tells the client that waits for a job to read its record; `channel` is the prefix of channels.
local function notify(channel, head, slot, uid)
  local reply = string.sub(head, REPLY_FROM, REPLY_TO)
  if string.sub(reply, 1, 1) ~= ' ' then
    redis.call('PUBLISH', channel .. reply, '?' .. slot .. uid)
  end
end

-- The uids that were taken out of a running batch, as a set.
local function taken_out(batch)
  local gone, set = redis.call('HGET', batch, 'gone'), {}
  for uid in string.gmatch(gone or '', '%x+') do set[uid] = true end
  return set, gone and #gone > 0
end
