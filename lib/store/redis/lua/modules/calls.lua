-- The sorted set `calls:<process>` has the results of the calls of a process that have changed something, with the numbers of the
-- calls as scores. The id of a call is `<process> <number> <oldest>`: the process does not need the results before the oldest number any
-- more. A retry returns the recorded result, and `find_call` reads it if the reply was lost. The results belong to the process, and not
-- to the node, because the node gets a new id when it registers again.
local calls = {}

function calls.record (call_id, result)
  local process, number, oldest = string.match(call_id, '^(%S+) (%d+) (%d+)$')
  local key = KEY_PREFIX .. ':calls:' .. process
  redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. oldest)
  redis.call('ZADD', key, number, number .. ' ' .. result)
  redis.call('PEXPIRE', key, $TTL)
end

-- Returns the result of a call; nil if it has changed nothing.
function calls.find (call_id)
  local process, number = string.match(call_id, '^(%S+) (%d+)')
  local member = redis.call('ZRANGEBYSCORE', KEY_PREFIX .. ':calls:' .. process, number, number)[1]
  return member and string.match(member, ' (.*)$')
end

return calls
