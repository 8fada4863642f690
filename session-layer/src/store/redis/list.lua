#!lua flags=allow-oom
-- The live sessions of a principal, those that logged in first first. What has ended meanwhile is cleared away.
--
-- KEYS  1 the list: a sorted set of the sessions' keys, by when the principal logged in
-- Gives for each: its key, that time, its fields, its time to live

local listed = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local alive = {}
for i = 1, #listed, 2 do
  local key = listed[i]
  if read('HEXISTS', key, '@c') == 1 then
    alive[#alive + 1] = { key, listed[i + 1], redis.call('HGETALL', key), redis.call('PTTL', key) }
  else
    redis.call('ZREM', KEYS[1], key)
  end
end
return alive
