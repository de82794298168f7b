-- id, node and number of the ticket, whether that is its last, then key, payload and outcome of messages; one without an outcome was refused.
local id, ticket, last = ARGS[1], ARGS[2], ARGS[3] == '1'
local key = session(id)
local queue, keys, order = key .. ':queue', key .. ':keys', key .. ':order'
for i = 4, #ARGS, 3 do
  local name, payload, outcome = ARGS[i], ARGS[i + 1], ARGS[i + 2]
  local holder, waiters = string.match(redis.call('HGET', keys, name) or '', '^r %S+ (%S+ %d+);(.*)$')
  -- Not where another has taken it over, or the session is forgotten.
  if holder == ticket then
    if outcome == '' then redis.call('HDEL', keys, name)
    else
      redis.call('HSET', keys, name, 's ' .. payload .. ' ' .. outcome)
      local count = redis.call('RPUSH', order, name)
      if count == 1 then redis.call('PEXPIRE', order, math.max(redis.call('PTTL', keys), 1)) end
      if count > MAX_KEYS then redis.call('HDEL', keys, redis.call('LPOP', order)) end
    end
    for node in string.gmatch(waiters, '[^,]+') do tell(node, 'o ' .. id .. ' ' .. name) end
  end
end
if not last then return 1 end
local tickets = redis.call('LRANGE', queue, 0, -1)
for i, other in ipairs(tickets) do
  if string.sub(other, 1, #ticket + 1) == ticket .. ' ' then
    redis.call('LREM', queue, 1, other)
    table.remove(tickets, i)
    break
  end
end
if tickets[1] then
  local node, number = string.match(tickets[1], '^(%S+) (%d+)')
  tell(node, 't ' .. number)
end
return 1
