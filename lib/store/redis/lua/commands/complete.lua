-- ARGS: id, ticket, whether it leaves the queue, then key, fingerprint and response of messages; a refused message has the
-- response ''. Returns 1.
local id, ticket, is_last = ARGS[1], ARGS[2], ARGS[3] == '1'
local key = session_key(id)
local queue, keys, order = key .. ':queue', key .. ':keys', key .. ':order'
for i = 4, #ARGS, 3 do
  local name, fingerprint, response = ARGS[i], ARGS[i + 1], ARGS[i + 2]
  local holder, waiters = string.match(redis.call('HGET', keys, name) or '', '^r %S+ (%S+ c?%d+);(.*)$')
  -- Another ticket may have the key now, or the session was removed.
  if holder == ticket then
    if response == '' then redis.call('HDEL', keys, name)
    else
      if #response > MAX_RESPONSE_BYTES then response = '' end
      redis.call('HSET', keys, name, (response == '' and 'd ' or 's ') .. fingerprint .. ' ' .. response)
      local count = redis.call('RPUSH', order, name)
      if count == 1 then redis.call('PEXPIRE', order, math.max(redis.call('PTTL', keys), 1)) end
      limit_responses(key, keys, order, count, #response)
    end
    for node in string.gmatch(waiters, '[^,]+') do notify(node, 'response ' .. id .. ' ' .. name) end
  end
end
if not is_last then return 1 end
remove_ticket(key, ticket)
if is_concurrent_ticket(ticket) then return 1 end
notify_next(key)
return 1
