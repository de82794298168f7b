-- ARGS: id, ticket or '', whether it leaves the queue, then key, fingerprint and response of messages. Returns 1. A response is
--   '': there is none; if the ticket has the key, the key is removed
--   `w`: the same; if the response was stored or dropped, this node does not wait for it any more
--   `d`: it is too large to store
--   otherwise the response
local message_queue = require('message_queue')
local id, ticket, leaves_queue = ARGS[1], ARGS[2], ARGS[3] == '1'
local key = session_key(id)
local records, record_order = key .. ':records', key .. ':record_order'
for i = 4, #ARGS, 3 do
  local idempotency_key, fingerprint, response = ARGS[i], ARGS[i + 1], ARGS[i + 2]
  local record = redis.call('HGET', records, idempotency_key) or ''
  work = work + #record + #response
  local key_ticket, waiters = string.match(record, '^r %S+ (%S+ c?%d+);(.*)$')
  -- Skips a key that another ticket has now, or whose session was removed.
  if key_ticket == ticket then
    if response == '' or response == 'w' then redis.call('HDEL', records, idempotency_key)
    else
      local state = 's '
      if response == 'd' then state, response = 'd ', '' end
      redis.call('HSET', records, idempotency_key, state .. fingerprint .. ' ' .. waiters .. ';' .. response)
      local count = redis.call('RPUSH', record_order, idempotency_key)
      if count == 1 then redis.call('PEXPIRE', record_order, math.max(redis.call('PTTL', records), 1)) end
      message_queue.limit_responses(key, count, #response)
    end
    for node in string.gmatch(waiters, '[^,]+') do notify(node, 'response ' .. id .. ' ' .. idempotency_key) end
  -- A retry could remove the node for a repeat that came after the first execution.
  elseif response == 'w' and not key_ticket and not is_retry then message_queue.remove_waiter(records, idempotency_key, record)
  end
end
if not leaves_queue then return 1 end
local next_item = message_queue.remove_ticket(key, ticket)
if message_queue.is_concurrent(ticket) or not next_item then return 1 end
local next_node, next_name = string.match(next_item, '^(%S+) (%d+)')
notify(next_node, 'turn ' .. next_name)
return 1
