-- Lists the lanes that need a flusher now.
-- KEYS: wake
-- ARGV: most lanes to list
-- Returns {now, due time of the next lane or 0, slots}.
local now = now_ms()
local slots = redis.call('ZRANGEBYSCORE', wake, '-inf', now, 'LIMIT', 0, ARGV[1])
return {ms13(now), ms13(score_of_first(wake) or 0), slots}
