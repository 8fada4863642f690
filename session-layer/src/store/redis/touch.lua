#!lua flags=allow-oom
-- Prolongs a session to its full idle timeout, within its absolute one. What has no created field is no session (a tombstone,
-- say), and is left alone.
--
-- KEYS  1 the session
-- ARGV  1 what the key of a principal's list starts with

local old = redis.pcall('HMGET', KEYS[1], '@c', '@i', '@a', '@p')
if old.err or not old[1] then
  return 0
end
local left = tonumber(old[2])
if old[3] and left then
  local time = redis.call('TIME')
  left = math.min(left, (tonumber(old[3]) or 0) - math.floor((time[1] * 1000000 + time[2]) / 1000))
end
if not left or left <= 0 then
  return 0
end
left = string.format('%.0f', left)
if old[4] then
  -- The list lives as long as the longest of its sessions.
  redis.call('PEXPIRE', ARGV[1] .. old[4], left, 'GT')
end
return redis.call('PEXPIRE', KEYS[1], left)
