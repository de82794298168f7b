-- id, node and number of the ticket, whether that is its last, then key, payload and outcome of messages; one without an outcome was refused.
local id, ticket, last = ARGV[ARGS + 1], ARGV[ARGS + 2], ARGV[ARGS + 3] == '1'
enter()
local key = session(id)
-- What is kept lives as long as the session.
local ttl = redis.call('PTTL', key)
if ttl < 1 then return 0 end
local queue, keys, order = key .. ':queue', key .. ':keys', key .. ':order'
for i = ARGS + 4, #ARGV, 3 do
  local name, payload, outcome = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local holder, waiters = string.match(redis.call('HGET', keys, name) or '', '^r %S+ (%S+ %d+);(.*)$')
  -- Not where another has taken it over.
  if holder == ticket then
    if outcome == '' then redis.call('HDEL', keys, name)
    else
      redis.call('HSET', keys, name, 's ' .. payload .. ' ' .. outcome)
      redis.call('RPUSH', order, name)
      redis.call('PEXPIRE', order, ttl)
      if redis.call('LLEN', order) > MAX_KEYS then redis.call('HDEL', keys, redis.call('LPOP', order)) end
    end
    for node in string.gmatch(waiters, '[^,]+') do tell(node, 'o ' .. id .. ' ' .. name) end
  end
end
if not last then return 1 end
for _, other in ipairs(redis.call('LRANGE', queue, 0, -1)) do
  if string.sub(other, 1, #ticket + 1) == ticket .. ' ' then redis.call('LREM', queue, 1, other) end
end
local head = redis.call('LINDEX', queue, 0)
if head then
  local node, number = string.match(head, '^(%S+) (%d+)')
  tell(node, 't ' .. number)
end
return 1
