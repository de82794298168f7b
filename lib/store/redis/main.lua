-- Does orders, one behind the other, up to the first that fails. Each is the name of an operation, its number, when it is given
-- up, and its arguments, their count first. Answers with why one has failed, if it has, and with what the others are answered.

-- Refuses what comes before what was sent first, what comes from a node that is taken for dead, and what its sender has given up.
local function admit (number, limit)
  if not ran then fail('FENCED') end
  if AFTER > ran then fail('ORDER') end
  if NOW > limit then fail('LATE') end
  OP, again = number, number <= ran
end

local function obey (name, number, limit, args)
  -- What has no number is done for any node, and as often as it is asked for.
  if number > 0 then admit(number, limit) end
  local answer = operation(name)(args)
  if number > 0 and ran and not again then
    ran = number
    changes['ran:' .. NODE] = number
  end
  return answer
end

local main = redis.call('HMGET', P, 'pos', 'back', 'clock', 'ran:' .. NODE, 'told:' .. NODE)
pos, back, clock = num(main[1]), num(main[2]), num(main[3])
ran, told = tonumber(main[4] or nil), tonumber(main[5] or nil)
if ran and (pos < SEEN or ran < DONE) then goneBack() end
local failure = ''
local answers = {}
local i = 5
while ARGV[i] do
  local name, number, limit, count = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  i = i + 4
  local args = {}
  for j = 1, count do args[j] = ARGV[i + j - 1] end
  i = i + count
  local done, answer = pcall(obey, name, number, limit, args)
  if not done then
    -- Redis has made a text of its errors, or not, by version.
    failure = type(answer) == 'table' and answer.err or tostring(answer)
    if not string.find(failure, '^%u%u') then failure = 'ERR ' .. failure end
    break
  end
  answers[#answers + 1] = answer
end

local list = {}
for field, value in pairs(changes) do
  list[#list + 1] = field
  list[#list + 1] = value
end
if #list > 0 then redis.call('HSET', P, unpack(list)) end
return { failure, answers }
