#!lua
-- One commit: creates, changes or renews a session in one step. All checks come before the first write, since Redis does not roll
-- a script back. The shebang makes Redis refuse it as a whole, before it starts, when it is out of memory or short of replicas.
--
-- KEYS  1 the session  2 the reply to this commit, if it was applied or refused before  3 the successor (only to renew)
-- ARGV  see `Arguments` in scripts.rs; the replies are read by reply.rs

local known = redis.pcall('GET', KEYS[2])
if type(known) == 'string' then
  -- Written again, so that whoever waits for a replica has something to wait for.
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  return known
end

local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local millis = math.floor(micros / 1000)
if micros > tonumber(ARGV[2]) then
  return 'T'
end

-- A copy of this commit that was held up must not apply once its sender was told no. That a session is gone needs no record.
local function refuse(reply)
  redis.call('SET', KEYS[2], reply, 'PX', ARGV[3])
  return reply
end

local action = ARGV[1]
local remember, tombstone_lifetime = ARGV[3], ARGV[4]
local seen = tonumber(ARGV[5])
local most_attributes, most_bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
local clear = ARGV[8] == '1'
local created, idle, absolute, principal, successor = ARGV[9], ARGV[10], tonumber(ARGV[11]), ARGV[12], ARGV[13]
local index_prefix, most_sessions, evict = ARGV[14], tonumber(ARGV[15]), ARGV[16] == '1'
local remembered = tonumber(ARGV[17])
local conditions = tonumber(ARGV[18])
local first_condition = 19
local first_change = first_condition + 2 * conditions

-- A number as we write them; nothing else, and nothing that a double does not hold exactly.
local function whole(text)
  local number = text and #text <= 16 and string.find(text, '^%d+$') and tonumber(text)
  return number and number <= 9007199254740991 and number or nil
end

-- An integer as JSON has it, of at most 18 digits: two of them cannot overflow 64 bits.
local function is_counter(text)
  local digits = string.match(text, '^%-?([1-9]%d*)$')
  return text == '0' or (digits ~= nil and #digits <= 18)
end

local function decimal(number)
  return string.format('%.0f', number)
end

-- Lua's stack bounds how many arguments one call can have.
local function in_chunks(command, key, list)
  for first = 1, #list, 1000 do
    redis.call(command, key, unpack(list, first, math.min(first + 999, #list)))
  end
end

local function fields(key, names)
  local values = {}
  for first = 1, #names, 1000 do
    local chunk = redis.pcall('HMGET', key, unpack(names, first, math.min(first + 999, #names)))
    if chunk.err then
      return {} -- some other type: no session is here
    end
    for i, value in ipairs(chunk) do
      values[names[first + i - 1]] = value
    end
  end
  return values
end

-- What is there, and whether the action can be done to it.

local old = {}
local attributes, bytes, version, ends = 0, 0, 0, nil
if action == 'create' then
  if redis.call('EXISTS', KEYS[1]) == 1 then
    return 'O'
  end
else
  if KEYS[3] and redis.call('EXISTS', KEYS[3]) == 1 then
    return 'O'
  end
  local names = { '@c', '@i', '@a', '@v', '@s', '@p', '@t' }
  if remembered > 0 then
    names[#names + 1] = '@h'
  end
  local reserved = #names
  for i = first_condition, first_change - 1, 2 do
    names[#names + 1] = ARGV[i]
  end
  for i = first_change, #ARGV, 3 do
    names[#names + 1] = ARGV[i + 1]
  end
  old = fields(KEYS[1], names)
  if old['@t'] and not old['@c'] then
    return 'E' .. old['@t']
  end
  version, bytes, ends = whole(old['@v']), whole(old['@s']), whole(old['@a'])
  if not (whole(old['@c']) and whole(old['@i']) and version and bytes) or (old['@a'] and not ends) then
    return 'N'
  end
  if ends and ends <= millis then
    return 'N'
  end
  if seen and version < seen then
    return refuse('R')
  end
  attributes = redis.call('HLEN', KEYS[1])
  for i = 1, reserved do
    if old[names[i]] then
      attributes = attributes - 1
    end
  end
end

local principal_before = old['@p'] or nil
local version_before, history = old['@v'], old['@h']
local fresh = action == 'create' or action == 'replace'
if fresh then
  old, attributes, bytes, version = {}, 0, 0, 0
  version_before, history = nil, nil
else
  idle = old['@i']
end
if fresh or action == 'login' then
  ends = absolute and millis + absolute
end

for i = 1, conditions do
  local at = first_condition + 2 * (i - 1)
  local current, expected = old[ARGV[at]] or nil, nil
  if string.sub(ARGV[at + 1], 1, 1) == '+' then
    expected = string.sub(ARGV[at + 1], 2)
  end
  if current ~= expected then
    return refuse('C' .. i .. (current and '+' .. current or '-'))
  end
end

local attributes_before, bytes_before = attributes, bytes
if clear then
  old, attributes, bytes = {}, 0, 0
end

-- What it becomes.

local set, remove, add, expected_bytes = {}, {}, {}, {}
for i = first_change, #ARGV, 3 do
  local what, name, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local before, after = old[name], nil
  if what == '=' then
    after = value
    set[#set + 1] = name
    set[#set + 1] = value
  elseif what == '-' then
    remove[#remove + 1] = name
  else
    if not is_counter(before or '0') or not is_counter(value) then
      return refuse('X' .. ((i - first_change) / 3 + 1))
    end
    -- Beyond 2^53 this may be off in its digits, but not in how many there are.
    after = decimal((before or 0) + value)
    add[#add + 1] = name
    expected_bytes[#add] = #after
  end
  if before then
    attributes, bytes = attributes - 1, bytes - #name - #before
  end
  if after then
    attributes, bytes = attributes + 1, bytes + #name + #after
  end
end
-- What was within the limits of an earlier setting may stay, and shrink.
if attributes > most_attributes and attributes > attributes_before then
  return refuse('LA')
end
if bytes > most_bytes and bytes > bytes_before then
  return refuse('LR')
end

-- The list of a principal's sessions: a sorted set of their keys, by when the principal logged in.

local logs_in = (fresh or action == 'login') and principal ~= ''
local listed_under = principal_before
if fresh or logs_in then
  listed_under = principal ~= '' and principal or nil
end
local index = listed_under and index_prefix .. listed_under

local function is_alive(key)
  return redis.pcall('HEXISTS', key, '@c') == 1
end

local evicted = {}
if logs_in and most_sessions then
  local others = {}
  for _, other in ipairs(redis.call('ZRANGE', index, 0, -1)) do
    if other ~= KEYS[1] and is_alive(other) then
      others[#others + 1] = other
    end
  end
  for i = 1, #others + 1 - most_sessions do
    if not evict then
      return refuse('S')
    end
    evicted[i] = others[i]
  end
end

-- All checks are done; from here on everything is written.

for _, other in ipairs(evicted) do
  redis.call('DEL', other)
  redis.call('HSET', other, '@t', '')
  redis.call('PEXPIRE', other, tombstone_lifetime)
  redis.call('ZREM', index, other)
end

local since = micros
if KEYS[3] and principal_before then
  if not fresh and not logs_in then
    since = tonumber(redis.call('ZSCORE', index, KEYS[1]) or since)
  end
  redis.call('ZREM', index_prefix .. principal_before, KEYS[1])
end
if logs_in then
  -- Sessions that expired are still listed. Each login clears more of them away than it adds.
  for _, other in ipairs(redis.call('ZRANGE', index, 0, 7)) do
    if not is_alive(other) then
      redis.call('ZREM', index, other)
    end
  end
end

local key = KEYS[3] or KEYS[1]
if index and action ~= 'apply' then
  redis.call('ZADD', index, decimal(since), key)
end
if KEYS[3] then
  if fresh then
    redis.call('DEL', KEYS[1])
  else
    redis.call('RENAME', KEYS[1], key)
  end
  redis.call('HSET', KEYS[1], '@t', successor)
  redis.call('PEXPIRE', KEYS[1], tombstone_lifetime)
end
if clear and not fresh then
  remove = {}
  for _, name in ipairs(redis.call('HKEYS', key)) do
    if string.sub(name, 1, 1) ~= '@' then
      remove[#remove + 1] = name
    end
  end
end
in_chunks('HDEL', key, remove)

version = decimal(math.max(version + 1, micros))
local reply = 'A' .. version
if #add > 0 then
  for i = first_change, #ARGV, 3 do
    if ARGV[i] == '+' then
      redis.call('HINCRBY', key, ARGV[i + 1], ARGV[i + 2])
    end
  end
  -- Read back as text: a Lua number would lose digits.
  local values = fields(key, add)
  for i, name in ipairs(add) do
    bytes = bytes - expected_bytes[i] + #values[name]
    reply = reply .. ' ' .. values[name]
  end
end

if remembered > 0 then
  -- What ends with another version was left behind by nodes that do not remember any.
  if not history or string.match(history, '%d+$') ~= version_before then
    history = version_before or ''
  end
  reply = reply .. '\n' .. history
  history = history == '' and version or history .. ' ' .. version
  local _, spaces = string.gsub(history, ' ', '')
  for _ = remembered, spaces do
    history = string.gsub(history, '^%S* ', '')
  end
  set[#set + 1] = '@h'
  set[#set + 1] = history
end
set[#set + 1] = '@v'
set[#set + 1] = version
set[#set + 1] = '@s'
set[#set + 1] = decimal(bytes)
if fresh then
  set[#set + 1] = '@c'
  set[#set + 1] = created
  set[#set + 1] = '@i'
  set[#set + 1] = idle
end
if fresh or action == 'login' then
  if principal ~= '' then
    set[#set + 1] = '@p'
    set[#set + 1] = principal
  end
  if ends then
    set[#set + 1] = '@a'
    set[#set + 1] = decimal(ends)
  elseif not fresh then
    redis.call('HDEL', key, '@a')
  end
end
in_chunks('HSET', key, set)

redis.call('SET', KEYS[2], reply, 'PX', remember)
local lifetime = decimal(math.min(idle, ends and ends - millis or math.huge))
redis.call('PEXPIRE', key, lifetime)
if index then
  -- As long as the longest of its sessions: without a limit so far, or with a shorter one.
  if redis.call('PEXPIRE', index, lifetime, 'NX') == 0 then
    redis.call('PEXPIRE', index, lifetime, 'GT')
  end
end
return reply
