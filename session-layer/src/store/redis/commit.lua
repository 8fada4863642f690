#!lua
-- One commit: creates, changes or renews a session in one step. All checks come before the first write, since Redis does not roll
-- a script back. The shebang makes Redis refuse it as a whole, before it starts, when it is out of memory or short of replicas.
--
-- Most commits set an attribute or two of a session that stays as it is. Redis does nothing else while one runs; so what only others
-- need (arguments, functions, commands) only they pay for.
--
-- KEYS  1 the session  2 the reply to this commit, if it was applied or refused before  3 the successor (only to renew)
-- ARGV  1 what is done: `apply`; `amend`, the same with more to it; `create`, `keep`, `login`, `replace`
--       2 deadline in microseconds of Redis' clock  3 how long to remember the reply, in milliseconds
--       4 the version that the request has seen, or nothing  5 the most attributes and bytes that a session may have, and what the
--       keys of its realm's lists start with  6 idle timeout  7 absolute timeout, or nothing
--       all but `apply`: 8 whether all attributes go  9 how many versions to remember  10 how many conditions
--       but for `amend`: 11 principal  12 created  13 how long a tombstone lasts  14 what it names
--       15 the most sessions that a principal may have  16 whether the oldest end above that
--       then two for each condition and three for each change; the replies are read by reply.rs

local known = read('GET', KEYS[2])
if type(known) == 'string' then
  -- Written again, so that whoever waits for a replica has something to wait for.
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  local conflict, name = string.match(known, '^(C%d+)%?(.*)$')
  if conflict then
    local current = read('HGET', KEYS[1], name)
    return conflict .. (type(current) == 'string' and '+' .. current or '-')
  end
  return known
end

-- Times and versions stay text where that does: at the same length they compare alike, and turning one into a number, or back, takes
-- as long as a command.
local time, argv = redis.call('TIME'), ARGV
local now = time[1] .. string.sub('00000', #time[2]) .. time[2]
local deadline = argv[2]
if (#deadline ~= #now or now > deadline) and tonumber(now) > tonumber(deadline) then
  return 'T'
end

-- A copy of this commit that was held up must not apply once its sender was told no. That a session is gone needs no record.
local function refuse(reply, remembered)
  redis.call('SET', KEYS[2], remembered or reply, 'PX', ARGV[3])
  return reply
end

local action, first_condition, first_change = argv[1], 8, 8
local starts_or_moves, fresh, begins, clear, remembered, conditions, principal = false, false, false, false, 0, 0, ''
if action ~= 'apply' then
  clear, remembered, conditions = argv[8] == '1', tonumber(argv[9]), tonumber(argv[10])
  first_condition = 11
  if action ~= 'amend' then
    starts_or_moves = true
    fresh = action == 'create' or action == 'replace'
    begins = fresh or action == 'login'
    principal = argv[11]
    first_condition = 17
  end
  first_change = first_condition + 2 * conditions
end

-- What is there, and whether the action can be done to it.

local have, reserved = {}, 0
local created, began, version, size, lifetimes, principal_before, history, left
local idle, absolute = argv[6], argv[7]
local lifetimes_after = idle .. ' ' .. absolute
if action == 'create' then
  if redis.call('EXISTS', KEYS[1]) == 1 then
    return 'O'
  end
else
  if KEYS[3] and redis.call('EXISTS', KEYS[3]) == 1 then
    return 'O'
  end
  local names = { '@c', '@b', '@v', '@s', '@i', '@p', '@h', false }
  reserved = remembered > 0 and 7 or 6
  local count = reserved
  for i = first_condition, first_change - 1, 2 do
    count = count + 1
    names[count] = argv[i]
  end
  for i = first_change + 1, #argv, 3 do
    count = count + 1
    names[count] = argv[i]
  end
  -- Lua's stack bounds how many arguments one call can have.
  have = read('HMGET', KEYS[1], unpack(names, 1, count < 1000 and count or 1000))
  if not have then
    return 'N' -- some other type: no session is here
  end
  for first = 1001, count, 1000 do
    for i, value in ipairs(redis.call('HMGET', KEYS[1], unpack(names, first, math.min(first + 999, count)))) do
      have[first + i - 1] = value
    end
  end
  created, began, version, size, lifetimes, principal_before = have[1], have[2], have[3], have[4], have[5], have[6]
  history = remembered > 0 and have[7]
  if not created then
    local tombstone = redis.call('HGET', KEYS[1], '@t')
    if not tombstone or string.sub(tombstone, 1, 8) ~= string.sub(KEYS[1], -8) then
      return 'N'
    end
    return 'E' .. redis.call('PTTL', KEYS[1]) .. ' ' .. string.sub(tombstone, 9)
  end
  if not (began and version and size and lifetimes) then
    return 'N'
  end
  -- Numbers as we write them; nothing else, and nothing that a double does not hold exactly.
  local numbers = created .. ' ' .. version .. ' ' .. size .. ' ' .. began
  if not string.find(numbers, '^%d+ %d+ %d+ %d+$') then
    return 'N'
  end
  for i = 1, 4 do
    local text = have[i]
    if #text > 15 and (#text > 16 or text > '9007199254740991') then
      return 'N'
    end
  end
  if lifetimes ~= lifetimes_after and not string.find(lifetimes, '^%d+ %d*$') then
    return 'N'
  end
  if absolute ~= '' and not begins then
    left = absolute - (now - began) / 1000
    left = left - left % 1
    if left <= 0 then
      -- By a setting that was lowered since: else the key had expired.
      redis.call('DEL', KEYS[1])
      return 'N'
    end
  end
  local seen = argv[4]
  if seen ~= version and seen ~= '' and tonumber(version) < tonumber(seen) then
    return refuse('R')
  end
end
local version_before = version
if fresh then
  have, version, version_before, size, history = {}, nil, nil, 0, nil
end
if begins then
  began, left = now, tonumber(absolute)
end

for i = 1, conditions do
  local at = first_condition + 2 * (i - 1)
  local current, expected = have[reserved + i] or nil, nil
  if string.sub(argv[at + 1], 1, 1) == '+' then
    expected = string.sub(argv[at + 1], 2)
  end
  if current ~= expected then
    -- Of a large attribute each lost try of an update would leave a copy; what is there when it is asked again does as well.
    local large = current and #current > 256
    return refuse('C' .. i .. (current and '+' .. current or '-'), large and 'C' .. i .. '?' .. argv[at])
  end
end

-- What it becomes.

local grown, added, before_clear = 0, 0, nil
if clear and not fresh then
  before_clear, have = have, {}
end
if not version or #version < #now or version < now then
  version = now
else
  version = string.format('%.0f', version + 1)
end
-- The reserved fields of a fresh session come first, where Redis finds them soonest.
local set, sets = { '@v', version, false, false }, 2
if fresh then
  local name = string.sub(KEYS[3] or KEYS[1], -8)
  set, sets = { '@v', version, '@c', argv[12], '@b', began, '@i', lifetimes_after, '@n', name }, 10
else
  if lifetimes ~= lifetimes_after then
    set[3], set[4], sets = '@i', lifetimes_after, 4
  end
  if KEYS[3] then
    set[sets + 1], set[sets + 2] = '@n', string.sub(KEYS[3], -8)
    sets = sets + 2
  end
end
local remove, add, expected_bytes = nil, nil, nil
local at = reserved + conditions
for i = first_change, #argv, 3 do
  local what, name, value = argv[i], argv[i + 1], argv[i + 2]
  at = at + 1
  local before, after = have[at], nil
  if what == '=' then
    after = value
    set[sets + 1], set[sets + 2] = name, value
    sets = sets + 2
  elseif what == '-' then
    remove = remove or {}
    remove[#remove + 1] = name
  else
    -- An integer as JSON has it, of at most 18 digits: two of them cannot overflow 64 bits.
    local function is_counter(text)
      local digits = string.match(text, '^%-?([1-9]%d*)$')
      return text == '0' or (digits ~= nil and #digits <= 18)
    end
    if not is_counter(before or '0') or not is_counter(value) then
      return refuse('X' .. ((i - first_change) / 3 + 1))
    end
    -- Beyond 2^53 this may be off in its digits, but not in how many there are.
    after = string.format('%.0f', (before or 0) + value)
    add, expected_bytes = add or {}, expected_bytes or {}
    add[#add + 1] = name
    expected_bytes[#add] = #after
  end
  if before then
    grown, added = grown - 1, added - #name - #before
  end
  if after then
    grown, added = grown + 1, added + #name + #after
  end
end
-- What was within the limits of an earlier setting may stay, and shrink.
if grown > 0 or added > 0 then
  local most_attributes, most_bytes = string.match(argv[5], '^(%d+) (%d+) ')
  if grown > 0 then
    -- All fields but the session's name, which every session has; the other reserved fields follow.
    local before = fresh and 0 or redis.call('HLEN', KEYS[1]) - 1
    for i = 1, fresh and 0 or reserved do
      if (before_clear or have)[i] then
        before = before - 1
      end
    end
    local attributes = (clear and 0 or before) + grown
    if attributes > before and attributes > tonumber(most_attributes) then
      -- What nodes that remember versions left is none, and asked for only where it matters.
      local left_by_others = not clear and not fresh and remembered == 0 and redis.call('HEXISTS', KEYS[1], '@h') or 0
      if attributes - left_by_others > tonumber(most_attributes) then
        return refuse('LA')
      end
    end
  end
  local bytes = (clear and 0 or size) + added
  if bytes > size + 0 and bytes > tonumber(most_bytes) then
    return refuse('LR')
  end
end

-- Whether the user may write all that follows; what only some commits do is checked with them.

local key = KEYS[3] or KEYS[1]
need('HSET', key, 'a', '')
need('SET', KEYS[2], '', 'PX', '1')
need('PEXPIRE', key, '1')
if remove or clear then
  need('HDEL', key, 'a')
  need('HKEYS', key)
end
if add then
  need('HINCRBY', key, 'a', '1')
  need('HGET', key, 'a')
end

-- The list of a principal's sessions in a realm: a sorted set of their keys, by when the principal logged in.

local listed_under, lists, index = principal_before, nil, nil
if principal_before or principal ~= '' then
  lists = string.match(argv[5], '^%d+ %d+ (.*)$')
end
if starts_or_moves then
  local logs_in = begins and principal ~= ''
  if fresh or logs_in then
    listed_under = principal ~= '' and principal or nil
  end
  index = listed_under and lists .. listed_under

  local function is_alive(key)
    return read('HEXISTS', key, '@c') == 1
  end

  local evicted = {}
  local most_sessions = tonumber(argv[15])
  if logs_in and most_sessions then
    local others = {}
    for _, other in ipairs(read('ZRANGE', index, 0, -1) or {}) do
      if other ~= KEYS[1] and is_alive(other) then
        others[#others + 1] = other
      end
    end
    for i = 1, #others + 1 - most_sessions do
      if argv[16] ~= '1' then
        return refuse('S')
      end
      evicted[i] = others[i]
    end
  end

  need('DEL', KEYS[1])
  need('HSET', KEYS[1], 'a', '')
  need('PEXPIRE', KEYS[1], '1')
  if KEYS[3] then
    need('RENAME', KEYS[1], key)
  end
  local list = index or principal_before and lists .. principal_before
  if list then
    need('ZRANGE', list, '0', '7')
    need('HEXISTS', KEYS[1], '@c')
    need('ZREM', list, KEYS[1])
    need('ZADD', list, 'NX', '1', key)
    need('PEXPIRE', list, '1')
    need('DEL', list)
  end

  -- All checks are done; from here on everything is written.

  for _, other in ipairs(evicted) do
    redis.call('DEL', other)
    redis.call('HSET', other, '@t', string.sub(other, -8))
    redis.call('PEXPIRE', other, argv[13])
    redis.call('ZREM', index, other)
  end

  if KEYS[3] and principal_before then
    read('ZREM', lists .. principal_before, KEYS[1])
  end
  if logs_in then
    -- Sessions that expired are still listed. Each login clears more of them away than it adds.
    for _, other in ipairs(read('ZRANGE', index, 0, 7) or {}) do
      if not is_alive(other) then
        redis.call('ZREM', index, other)
      end
    end
  end
  if KEYS[3] then
    if fresh then
      redis.call('DEL', KEYS[1])
    else
      redis.call('RENAME', KEYS[1], key)
    end
    redis.call('HSET', KEYS[1], '@t', string.sub(KEYS[1], -8) .. argv[14])
    redis.call('PEXPIRE', KEYS[1], argv[13])
  end
elseif listed_under then
  index = lists .. listed_under
end

-- From here on no check is left for any action.

local lifetime = left and left < idle + 0 and left or idle
if index then
  -- Each commit, not the login alone: Redis may have evicted the list, or somebody deleted it.
  -- Unless the session moves, this is the first write, which may fail.
  local added = read('ZADD', index, 'NX', began, key)
  if not added then
    -- Something else that was written there keeps no session out of its list.
    redis.call('DEL', index)
    added = redis.call('ZADD', index, 'NX', began, key)
  end
  -- It lives as long as the longest of its sessions: without a limit so far, or with a shorter one.
  if added == 0 or redis.call('PEXPIRE', index, lifetime, 'NX') == 0 then
    redis.call('PEXPIRE', index, lifetime, 'GT')
  end
end

if clear and not fresh then
  remove = {}
  for _, name in ipairs(redis.call('HKEYS', key)) do
    if string.sub(name, 1, 1) ~= '@' then
      remove[#remove + 1] = name
    end
  end
end
if remove then
  for first = 1, #remove, 1000 do
    redis.call('HDEL', key, unpack(remove, first, math.min(first + 999, #remove)))
  end
end

local reply = 'A' .. version
if add then
  for i = first_change, #argv, 3 do
    if argv[i] == '+' then
      redis.call('HINCRBY', key, argv[i + 1], argv[i + 2])
    end
  end
  for i, name in ipairs(add) do
    -- Read back as text: a Lua number would lose digits.
    local value = redis.call('HGET', key, name)
    added = added - expected_bytes[i] + #value
    reply = reply .. ' ' .. value
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
  set[sets + 1], set[sets + 2] = '@h', history
  sets = sets + 2
end
if added ~= 0 or clear or fresh then
  set[sets + 1], set[sets + 2] = '@s', (clear and 0 or size) + added
  sets = sets + 2
end
if begins then
  if principal ~= '' then
    set[sets + 1], set[sets + 2] = '@p', principal
    sets = sets + 2
  end
  if not fresh then
    set[sets + 1], set[sets + 2] = '@b', began
    sets = sets + 2
  end
end
for first = 1, sets, 1000 do
  redis.call('HSET', key, unpack(set, first, first + 999 < sets and first + 999 or sets))
end

redis.call('SET', KEYS[2], reply, 'PX', ARGV[3])
redis.call('PEXPIRE', key, lifetime)
return reply
