#!lua flags=allow-oom
-- Ends sessions of a principal, all in one step, each with a tombstone. Works when Redis is out of memory, as a logout does.
--
-- KEYS  1 the principal's list  2 the reply to this revocation, if it was applied before
-- ARGV  1 deadline in microseconds of Redis' clock  2 how long to remember the reply  3 how long a tombstone lasts, both in
--       milliseconds  4 which: `one`, `others` or `all`  5 the key of the one that ends, or of the one that stays

local known = read('GET', KEYS[2])
if type(known) == 'string' then
  -- Written again, so that whoever waits for a replica has something to wait for.
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  return known
end

local time = redis.call('TIME')
if time[1] * 1000000 + time[2] > tonumber(ARGV[1]) then
  return 'T'
end

local which, this = ARGV[4], ARGV[5]
local listed = redis.call('ZRANGE', KEYS[1], 0, -1)
if listed[1] then
  need('HEXISTS', listed[1], '@c')
  need('DEL', listed[1])
  need('HSET', listed[1], 'a', '')
  need('PEXPIRE', listed[1], '1')
  need('ZREM', KEYS[1], listed[1])
  need('SET', KEYS[2], '', 'PX', '1')
end

-- All checks are done; from here on everything is written.

local ended = 0
for _, key in ipairs(listed) do
  if which == 'all' or (key == this) == (which == 'one') then
    if read('HEXISTS', key, '@c') == 1 then
      redis.call('DEL', key)
      redis.call('HSET', key, '@t', string.sub(key, -8))
      redis.call('PEXPIRE', key, ARGV[3])
      ended = ended + 1
    end
    redis.call('ZREM', KEYS[1], key)
  end
end
local reply = 'V' .. ended
redis.call('SET', KEYS[2], reply, 'PX', ARGV[2])
return reply
