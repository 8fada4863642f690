-- What the scripts share.

-- Reads. A key of another type, which something else wrote there, counts as absent. Any other error, of a missing permission
-- say, ends the script: it must not be taken for an answer.
local function read(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' or not answer.err then
    return answer
  end
  if string.sub(answer.err, 1, 9) ~= 'WRONGTYPE' then
    error(answer)
  end
end

-- Ends the script if the user may not run a command on its keys. Redis does not roll back, so this comes before the first write for
-- each command behind it.
local function need(...)
  if not redis.acl_check_cmd(...) then
    error({ err = 'NOPERM the user lacks a permission: +' .. string.lower((...)) })
  end
end

