-- ARGS: id, names of the tickets of this node. Redis may have lost that others were completed: these are removed, and a repeat
-- of their messages is handled again. Returns 1.
if is_retry then return 1 end
local id = ARGS[1]
local key = session_key(id)
local is_known, removed = {}, {}
for i = 2, #ARGS do is_known[NODE_ID .. ' ' .. ARGS[i]] = true end
for _, item in ipairs(redis.call('LRANGE', key .. ':queue', 0, -1)) do
  local ticket, node = string.match(item, '^((%S+) c?%d+) ')
  if node == NODE_ID and not is_known[ticket] then
    message_queue.remove_item(key, item)
    removed[ticket] = true
  end
end
if not next(removed) then return 1 end
local records = redis.call('HGETALL', key .. ':records')
for i = 1, #records, 2 do
  local idempotency_key = records[i]
  local holder, waiters = string.match(records[i + 1], '^r %S+ (%S+ c?%d+);(.*)$')
  if removed[holder or ''] then
    redis.call('HDEL', key .. ':records', idempotency_key)
    for node in string.gmatch(waiters, '[^,]+') do notify(node, 'response ' .. id .. ' ' .. idempotency_key) end
  end
end
message_queue.notify_next(key)
return 1
