#!lua flags=allow-oom
-- Prolongs a session, and enters it into the list of its principal where the list has lost it. A key without a created field is not a
-- session (but a tombstone, for example) and is left alone.
--
-- KEYS  1 the session
-- ARGV  1 idle timeout  2 absolute timeout, or nothing  3 what the keys of its realm's lists start with

local old = read('HMGET', KEYS[1], '@c', '@b', '@v', '@s', '@i', '@p')
if not old then
  return 0
end
-- Numbers as we write them, as for a commit; of anything else nothing is prolonged.
for i = 1, 4 do
  local text = old[i]
  if not text or not string.find(text, '^%d+$') or #text > 16 or (#text == 16 and text > '9007199254740991') then
    return 0
  end
end
local began, lifetimes, principal = old[2], old[5], old[6]
if not lifetimes or not string.find(lifetimes, '^%d+ %d*$') then
  return 0
end
local idle, absolute = ARGV[1], ARGV[2]
local left = tonumber(idle)
if absolute ~= '' then
  local time = redis.call('TIME')
  left = math.min(left, math.floor(absolute - (time[1] * 1000000 + time[2] - began) / 1000))
end
if left <= 0 then
  -- By a setting that was lowered since: else the key had expired.
  return redis.call('DEL', KEYS[1])
end
left = string.format('%.0f', left)
local lifetimes_after = idle .. ' ' .. absolute
need('PEXPIRE', KEYS[1], '1')
if lifetimes ~= lifetimes_after then
  need('HSET', KEYS[1], 'a', '')
end
if principal then
  local list = ARGV[3] .. principal
  -- The first write, which may fail.
  local added = read('ZADD', list, 'NX', began, KEYS[1])
  if not added then
    -- Something else that was written there keeps no session out of its list.
    redis.call('DEL', list)
    added = redis.call('ZADD', list, 'NX', began, KEYS[1])
  end
  -- It lives as long as the longest of its sessions: without a limit so far, or with a shorter one.
  if added == 0 or redis.call('PEXPIRE', list, left, 'NX') == 0 then
    redis.call('PEXPIRE', list, left, 'GT')
  end
end
if lifetimes ~= lifetimes_after then
  redis.call('HSET', KEYS[1], '@i', lifetimes_after)
end
return redis.call('PEXPIRE', KEYS[1], left)
