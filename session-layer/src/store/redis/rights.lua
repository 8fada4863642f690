#!lua flags=no-writes
-- Tells which of the given commands the user of this connection may not run, or not on the given keys. It runs none of them: so it leaves
-- nothing behind, and works where nothing can be written (out of memory, short of replicas).
--
-- ARGV  for each command how many words it has, and the words
-- Returns their numbers, counted from 1

local missing, number, at = {}, 0, 1
while ARGV[at] do
  local last = at + tonumber(ARGV[at])
  number = number + 1
  -- A command that this server does not have (`rename-command`) is an error.
  local known, permitted = pcall(redis.acl_check_cmd, unpack(ARGV, at + 1, last))
  if not (known and permitted) then
    missing[#missing + 1] = number
  end
  at = last + 1
end
return missing
