-- Executes the commands of the batch, one after the other, up to the first that fails, or until they have done so much work that Redis would
-- be blocked for too long. Each has a name, a number, a deadline, the number of its arguments, and the arguments. Returns the error of the
-- command that failed, `CONTINUE` if commands are left, or '', and the replies of those before it.

local function execute (name, number, deadline, args)
  command_number = number
  -- A command without a number is executed for any sender, each time that it is sent.
  if number > 0 then
    if not applied_number then raise('FENCED') end
    -- A command before this batch was not executed.
    if PREVIOUS_NUMBER > applied_number then raise('REORDERED') end
    -- The sender has given the command up.
    if NOW > deadline then raise('TIMEDOUT') end
    is_retry = number <= applied_number
  end
  local reply = require('commands/' .. name)(args)
  if number > 0 and applied_number and not is_retry then
    applied_number = number
    store_changes['applied:' .. NODE_ID] = number
  end
  return reply
end

local store = redis.call('HMGET', KEY_PREFIX, 'position', 'rollbackPosition', 'leaseClock', 'clockAt', 'applied:' .. NODE_ID, 'inbox:' .. NODE_ID)
position, rollback_position, lease_clock, clock_at = to_number(store[1]), to_number(store[2]), to_number(store[3]), to_number(store[4])
applied_number, inbox_number = tonumber(store[5] or nil), tonumber(store[6] or nil)
if applied_number and (position < HIGHEST_POSITION or applied_number < ACKED_NUMBER) then require('rollback')() end
local failure = ''
local replies = {}
local i = 5
while ARGV[i] do
  if work >= $MAX_WORK then
    failure = 'CONTINUE'
    break
  end
  local name, number, deadline, count = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  i = i + 4
  local args = {}
  for j = 1, count do args[j] = ARGV[i + j - 1] end
  i = i + count
  local ok, reply = pcall(execute, name, number, deadline, args)
  if not ok then
    -- Redis throws a table, Lua a string.
    failure = type(reply) == 'table' and reply.err or tostring(reply)
    if not string.find(failure, '^%u%u') then failure = 'ERR ' .. failure end
    break
  end
  replies[#replies + 1] = reply
end

local fields = {}
for field, value in pairs(store_changes) do
  fields[#fields + 1] = field
  fields[#fields + 1] = value
end
if #fields > 0 then redis.call('HSET', KEY_PREFIX, unpack(fields)) end
return { failure, replies }
