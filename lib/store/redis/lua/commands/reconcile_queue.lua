-- ARGS: id, names of the tickets of this node. The others that Redis has of it are completed, which Redis has lost: they are
-- removed, and a repeat of their messages is handled again. Returns 1.
if is_retry then return 1 end
local id = ARGS[1]
local key = session_key(id)
local is_known, removed = {}, {}
for i = 2, #ARGS do is_known[NODE .. ' ' .. ARGS[i]] = true end
for _, queued in ipairs(redis.call('LRANGE', key .. ':queue', 0, -1)) do
  local ticket, node = string.match(queued, '^((%S+) c?%d+) ')
  if node == NODE and not is_known[ticket] then
    drop_ticket(key, queued)
    removed[ticket] = true
  end
end
if not next(removed) then return 1 end
local keys = redis.call('HGETALL', key .. ':keys')
for i = 1, #keys, 2 do
  local holder, waiters = string.match(keys[i + 1], '^r %S+ (%S+ c?%d+);(.*)$')
  if removed[holder or ''] then
    redis.call('HDEL', key .. ':keys', keys[i])
    for node in string.gmatch(waiters, '[^,]+') do notify(node, 'response ' .. id .. ' ' .. keys[i]) end
  end
end
notify_next(key)
return 1
