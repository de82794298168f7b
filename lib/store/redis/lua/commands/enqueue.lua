-- Adds a ticket with new messages to the queue of its session, unless it is there. Nodes also call it to find out whether the ticket is next.
-- ARGS: id, name of the ticket, version of the session that the node has, whether the ticket is in the queue, then key and
-- fingerprint of each message, with an empty key if it has none.
-- Returns a status, a list, and the record of the session if it is newer. The statuses, with their lists:
--   `unknown`: there is no such open session
--   `full`: the number of messages that wait
--   `resend` (as a new command): whether the ticket is in the queue
--   `run` (the ticket does not wait for another one), `wait`: a decision on each message
-- The decisions:
--   `new`: to be handled
--   `wait`: a repeat of a message that waits or is being handled
--   `reused`: the key belongs to another message
--   `s<response>`: a repeat whose response is stored; `d`: one whose response was dropped; `S<response>`, `D`: the same, and the record
--     has this node as waiting
local message_queue, nodes = require('message_queue'), require('nodes')
local id, ticket_name, version, is_queued = ARGS[1], ARGS[2], ARGS[3], ARGS[4] == '1'
local key = session_key(id)
local current_version, close_reason, owner, node_ids, first, in_list = unpack(redis.call('HMGET', key, 'version', 'closeReason', 'owner', 'nodes', 'first', 'messagesInList'))
if not current_version or close_reason then return { 'unknown', {}, read_record(key) } end
nodes.add_self(key, node_ids)
local queue, records = key .. ':queue', key .. ':records'
local ticket = NODE_ID .. ' ' .. ticket_name
local is_concurrent = message_queue.is_concurrent(ticket)
local session_record = not nodes.clear_expired_owner(key, owner) and current_version == version and {} or read_record(key)

first = message_queue.ensure_valid_first(key, first)
-- Redis may have lost the ticket since, or, for a retry, have it already.
if is_queued or is_retry then is_queued = message_queue.find_item(key, first, ticket) ~= nil end
local decisions, new_count, new_records, wait_records = {}, 0, {}, {}
for i = 5, #ARGS, 2 do
  local idempotency_key, fingerprint = ARGS[i], ARGS[i + 1]
  local decision, needs_record, waiters = 'new', idempotency_key ~= '', ''
  local record = needs_record and redis.call('HGET', records, idempotency_key)
  if record then
    work = work + #record
    local state, known_fingerprint, rest_start = string.match(record, '^(%a) (%S+) ()')
    if known_fingerprint ~= fingerprint then decision = 'reused'
    elseif state == 'r' then
      local key_ticket
      key_ticket, waiters = string.match(record, '^(%S+ c?%d+);(.*)$', rest_start)
      if key_ticket == ticket then needs_record = false
      elseif message_queue.is_valid(key_ticket) then
        decision = 'wait'
        if not string.find(waiters, NODE_ID, 1, true) then wait_records[idempotency_key] = record .. NODE_ID .. ',' end
      end
    else
      local response
      waiters, response = string.match(record, '^([^;]*);(.*)$', rest_start)
      decision = (string.find(waiters, NODE_ID, 1, true) and string.upper(state) or state) .. response
    end
  end
  decisions[#decisions + 1] = decision
  if decision == 'new' then
    new_count = new_count + 1
    -- Other nodes may still have repeats that wait for the message of a node that has failed.
    if needs_record then new_records[idempotency_key] = 'r ' .. fingerprint .. ' ' .. ticket .. ';' .. waiters end
  end
end
-- The node may have removed the ticket or a record since the first execution. Not an error, because that would stop the commands
-- after this one.
if is_retry and (new_count > 0 and not is_queued or next(new_records)) then return { 'resend', { is_queued and '1' or '0' }, session_record } end
if new_count > 0 and not is_queued then
  local count = message_queue.count_messages(key, first, to_number(in_list), new_count)
  if count > 0 and count - 1 + new_count > $MAX_WAITING_MESSAGES then return { 'full', { tostring(count - 1) }, session_record } end
  local item = ticket .. ' ' .. new_count
  if first or is_concurrent then
    if redis.call('RPUSH', queue, item) == 1 then redis.call('PEXPIRE', queue, $TTL) end
    redis.call('HINCRBY', key, 'messagesInList', new_count)
  else
    redis.call('HSET', key, 'first', item)
    first = item
  end
  is_queued = true
end
for idempotency_key, record in pairs(wait_records) do redis.call('HSET', records, idempotency_key, record) end
for idempotency_key, record in pairs(new_records) do
  redis.call('HSET', records, idempotency_key, record)
  -- If no node renews the session, Redis removes the records.
  if redis.call('PTTL', records) < 0 then redis.call('PEXPIRE', records, $TTL) end
end
local is_first = first and message_queue.has_ticket(first, ticket)
return { (is_concurrent or not is_queued or is_first) and 'run' or 'wait', decisions, session_record }
