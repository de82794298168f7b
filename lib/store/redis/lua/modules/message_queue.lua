-- The queues of messages, and the responses that are stored for repeats.

-- A ticket is for the messages of one POST that are handled one after the other, or for one concurrent message. The queue of a
-- session is the field `first`, the item of the first ticket that is not concurrent, and the list `:queue` with the other items. So a
-- message that does not wait needs no list. An item is `<ticket> <number of messages>`, and a ticket is `<node id> <name>`. A name is
-- a number; `c` before it means concurrent: the message does not wait for the first ticket. The field `messagesInList`
-- is the number of messages in the list. The hash `:records` has what is known of each idempotency key:
--   r <fingerprint> <ticket>;<ids of the nodes with repeats that wait>   while the message waits or is being handled (running)
--   s <fingerprint> <ids of the nodes with repeats that wait>;<response> when its response is stored
--   d <fingerprint> <ids of the nodes with repeats that wait>;           when its response was dropped
-- The list `:record_order` has the keys with a stored or dropped response, the oldest first.
local nodes = require('nodes')
local message_queue = {}

-- Returns the number of messages of an item.
function message_queue.item_size (item) return tonumber(string.match(item, '%d+$')) end

function message_queue.is_concurrent (ticket) return string.find(ticket, ' c', 1, true) ~= nil end

function message_queue.has_ticket (item, ticket) return string.sub(item, 1, #ticket + 1) == ticket .. ' ' end

-- Whether a ticket is waiting or being handled: its node has a lease, and has not completed it. After a rollback, Redis can have
-- tickets that were completed. So each node then records the number of its newest ticket, as `lastNumber`, and the names of its
-- tickets that were not completed; all others up to that number are completed.
function message_queue.is_valid (ticket)
  local node, name, number = string.match(ticket, '^(%S+) (c?(%d+))')
  if not nodes.check_lease(node) then return false end
  if rollback_position == 0 then return true end
  local tickets = KEY_PREFIX .. ':tickets:' .. node
  if tonumber(number) > to_number(redis.call('HGET', tickets, 'lastNumber')) then return true end
  return string.find(redis.call('HGET', tickets, 'names'), ',' .. name .. ',', 1, true) ~= nil
end

-- Makes the next valid ticket that is not concurrent the first one, and removes those before it that are not valid. Returns its
-- item; false if there is none.
function message_queue.advance (key)
  local queue, index = key .. ':queue', 0
  while true do
    local item = redis.call('LINDEX', queue, index)
    if not item then
      redis.call('HDEL', key, 'first')
      return false
    end
    local is_valid = message_queue.is_valid(item)
    if is_valid and message_queue.is_concurrent(item) then index = index + 1
    else
      redis.call('LREM', queue, 1, item)
      redis.call('HINCRBY', key, 'messagesInList', -message_queue.item_size(item))
      if is_valid then
        redis.call('HSET', key, 'first', item)
        return item
      end
    end
  end
end

-- Returns the item of the first valid ticket that is not concurrent; false if there is none. `first`: the recorded one.
function message_queue.ensure_valid_first (key, first)
  if not first or message_queue.is_valid(first) then return first end
  return message_queue.advance(key)
end

-- Returns the item of a ticket; nil if it is not in the queue.
function message_queue.find_item (key, first, ticket)
  if first and message_queue.has_ticket(first, ticket) then return first end
  for _, item in ipairs(redis.call('LRANGE', key .. ':queue', 0, -1)) do
    if message_queue.has_ticket(item, ticket) then return item end
  end
end

-- Removes a ticket from the queue. Returns the item of the ticket that is first then; false if there is none.
function message_queue.remove_ticket (key, ticket)
  local first, in_list = unpack(redis.call('HMGET', key, 'first', 'messagesInList'))
  local item = message_queue.find_item(key, first, ticket)
  if item and item == first then
    if to_number(in_list) > 0 then return message_queue.advance(key) end
    redis.call('HDEL', key, 'first')
    return false
  end
  if item then
    redis.call('LREM', key .. ':queue', 1, item)
    redis.call('HINCRBY', key, 'messagesInList', -message_queue.item_size(item))
  end
  return message_queue.ensure_valid_first(key, first)
end

-- Returns the number of messages in the queue. `in_list`: the recorded number of those in the list. If there is no room for
-- `new_count` more, removes the invalid tickets from the list, and counts again.
function message_queue.count_messages (key, first, in_list, new_count)
  local first_count = first and message_queue.item_size(first) or 0
  -- The first message is being handled, so it does not wait.
  if first_count + in_list - 1 + new_count <= $MAX_WAITING_MESSAGES then return first_count + in_list end
  in_list = 0
  for _, item in ipairs(redis.call('LRANGE', key .. ':queue', 0, -1)) do
    if message_queue.is_valid(item) then in_list = in_list + message_queue.item_size(item)
    else redis.call('LREM', key .. ':queue', 1, item) end
  end
  redis.call('HSET', key, 'messagesInList', in_list)
  return first_count + in_list
end

-- Whether a repeat waits for the response, in a node with a lease.
function message_queue.is_awaited (waiters)
  for node in string.gmatch(waiters, '[^,]+') do
    if nodes.check_lease(node) then return true end
  end
  return false
end

-- Removes this node from those with repeats that wait for a response, if the response was stored or dropped.
function message_queue.remove_waiter (records, idempotency_key, record)
  local before, waiters, response = string.match(record, '^([sd] %S+ )([^;]*)(;.*)$')
  local from, to = string.find(waiters or '', NODE_ID .. ',', 1, true)
  if from then redis.call('HSET', records, idempotency_key, before .. string.sub(waiters, 1, from - 1) .. string.sub(waiters, to + 1) .. response) end
end

-- Limits the stored responses of a session after one was added: drops the oldest keys if there are too many, and the oldest
-- responses if they have too many bytes. The keys of these stay, so that their messages are not handled again. The keys of awaited
-- responses stay, too, in addition to the newest keys.
-- `droppedResponses`: how many keys, from the oldest on, have no response any more.
function message_queue.limit_responses (key, count, added_bytes)
  local records, record_order = key .. ':records', key .. ':record_order'
  local response_bytes, dropped_responses = unpack(redis.call('HMGET', key, 'responseBytes', 'droppedResponses'))
  local bytes, dropped = to_number(response_bytes) + added_bytes, to_number(dropped_responses)
  local function parse (idempotency_key) return string.match(redis.call('HGET', records, idempotency_key) or '', '^%a (%S+) ([^;]*);(.*)$') end
  local awaited_count = 0
  while count - awaited_count > $MAX_IDEMPOTENCY_KEYS do
    local oldest = redis.call('LINDEX', record_order, awaited_count)
    local _, waiters, response = parse(oldest)
    if waiters and message_queue.is_awaited(waiters) then awaited_count = awaited_count + 1
    else
      if awaited_count < dropped then dropped = dropped - 1 end
      bytes, count = bytes - #(response or ''), count - 1
      redis.call('LREM', record_order, 1, oldest)
      redis.call('HDEL', records, oldest)
    end
  end
  while bytes > $MAX_RESPONSE_BYTES do
    local oldest = redis.call('LINDEX', record_order, dropped)
    if not oldest then break end
    local fingerprint, waiters, response = parse(oldest)
    if fingerprint then redis.call('HSET', records, oldest, 'd ' .. fingerprint .. ' ' .. waiters .. ';') end
    bytes, dropped = bytes - #(response or ''), dropped + 1
  end
  redis.call('HSET', key, 'responseBytes', math.max(bytes, 0), 'droppedResponses', dropped)
end

return message_queue
