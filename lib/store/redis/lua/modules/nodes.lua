-- Nodes, their leases, and which nodes use a session or a run.
local nodes = {}

-- Which nodes have a lease, as far as it was checked in this execution, so that each is looked up once.
local lease_cache = {}

-- Removes a node whose lease has ended, or that closes.
function nodes.expire (node)
  lease_cache[node] = nil
  -- The number of its last command shows whether Redis has lost commands, when the node registers under a new id.
  local applied = redis.call('HGET', KEY_PREFIX, 'applied:' .. node)
  if applied then
    redis.call('HSET', KEY_PREFIX .. ':fenced:' .. node, 'applied', applied)
    redis.call('PEXPIRE', KEY_PREFIX .. ':fenced:' .. node, 3600000)
  end
  redis.call('ZREM', KEY_PREFIX .. ':nodes', node)
  redis.call('HDEL', KEY_PREFIX, 'applied:' .. node, 'inbox:' .. node)
  redis.call('DEL', KEY_PREFIX .. ':tickets:' .. node)
  store_changes['inbox:' .. node], store_changes['applied:' .. node] = nil, nil
  if node == NODE_ID then applied_number, inbox_number = nil, nil end
  -- Messages that wait for a message of this node may be next now.
  publish_all('queues_changed')
end

-- Returns whether a node has a lease. Expires a node without one: it must register under a new id.
function nodes.check_lease (node)
  if node == NODE_ID and applied_number or lease_cache[node] then return true end
  local lease_end = redis.call('ZSCORE', KEY_PREFIX .. ':nodes', node)
  lease_cache[node] = lease_end and tonumber(lease_end) > lease_clock
  if lease_cache[node] then return true end
  if lease_end or redis.call('HEXISTS', KEY_PREFIX, 'inbox:' .. node) == 1 then nodes.expire(node) end
  return false
end

-- Clears the owner of a session if its lease has ended. Returns true if it was cleared.
function nodes.clear_expired_owner (key, owner)
  if not owner or owner == '' or nodes.check_lease(owner) then return false end
  redis.call('HSET', key, 'owner', '')
  redis.call('HINCRBY', key, 'version', 1)
  return true
end

-- Records that this node uses a session, so that it is notified when the session is closed. A run also has the field
-- `readerNodes`, for those that receive its entries.
function nodes.add_self (key, node_ids, field)
  node_ids = node_ids or ''
  if string.find(node_ids, NODE_ID, 1, true) then return end
  -- 200 characters are about 15 ids. Some may be those of nodes that have failed.
  if #node_ids > 200 then
    local with_lease = {}
    for node in string.gmatch(node_ids, '[^,]+') do if nodes.check_lease(node) then with_lease[#with_lease + 1] = node .. ',' end end
    node_ids = table.concat(with_lease)
  end
  redis.call('HSET', key, field or 'nodes', node_ids .. NODE_ID .. ',')
end

return nodes
