-- Names the key that the reply is about, so that no node takes the reply to another script for it (see packet.rs): the key of the
-- commit, or of the session or list where that is the only key.

local reply, key = body(), KEYS[2] or KEYS[1]
if not key then
  return reply
end
if type(reply) == 'table' then
  return { key, reply }
end
return string.sub(key, -8) .. reply
