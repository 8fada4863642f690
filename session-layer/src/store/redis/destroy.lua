#!lua flags=allow-oom
-- Ends a session and leaves a tombstone. It works when Redis is out of memory, since a logout must: it frees before it writes.
--
-- KEYS  1 the session  2 the reply to this commit, if it was applied before
-- ARGV  1 deadline in microseconds of Redis' clock  2 how long to remember the reply  3 how long the tombstone lasts, both in
--       milliseconds  4 the version that the request has seen, or nothing  5 what the keys of its realm's lists start with

local known = read('GET', KEYS[2])
if type(known) == 'string' then
  -- Written again, so that whoever waits for a replica has something to wait for.
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  return known
end

local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
if micros > tonumber(ARGV[1]) then
  return 'T'
end

local function whole(text)
  local number = text and #text <= 16 and string.find(text, '^%d+$') and tonumber(text)
  return number and number <= 9007199254740991 and number or nil
end

local old = read('HMGET', KEYS[1], '@c', '@b', '@i', '@v', '@s', '@t', '@p')
if not old then
  return 'N' -- some other type: no session is here
end
local created, began, version, size = whole(old[1]), whole(old[2]), whole(old[4]), whole(old[5])
if old[6] and not old[1] then
  if string.sub(old[6], 1, 8) ~= string.sub(KEYS[1], -8) then
    return 'N'
  end
  return 'E' .. redis.call('PTTL', KEYS[1]) .. ' ' .. string.sub(old[6], 9)
end
local absolute = string.match(old[3] or '', '^%d+ (%d*)$')
if not (created and began and version and size and absolute) then
  return 'N'
end
if absolute ~= '' and began + absolute * 1000 <= micros then
  return 'N'
end
local seen = tonumber(ARGV[4])
if seen and version < seen then
  return 'R'
end

need('DEL', KEYS[1])
need('HSET', KEYS[1], 'a', '')
need('PEXPIRE', KEYS[1], '1')
need('SET', KEYS[2], '', 'PX', '1')
if old[7] then
  need('ZREM', ARGV[5] .. old[7], KEYS[1])
end

-- All checks are done; from here on everything is written.

redis.call('DEL', KEYS[1])
if old[7] then
  -- Where the list should be may be something else, which is no reason to stop here.
  read('ZREM', ARGV[5] .. old[7], KEYS[1])
end
redis.call('HSET', KEYS[1], '@t', string.sub(KEYS[1], -8))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local reply = 'A' .. old[4]
redis.call('SET', KEYS[2], reply, 'PX', ARGV[2])
return reply
