-- id, number of the ticket, the record's version at hand, then key and payload of each message, the key empty where it has none.
-- Answers with how it stands: `unknown`, `many`, `run`, `wait`, or `again` where it is to be asked for anew; the verdict on each message; the record, where it is newer.
local id, number, version = ARGS[1], ARGS[2], ARGS[3]
local key = session(id)
local record = redis.call('HMGET', key, 'version', 'endedBy', 'owner', 'keyed')
if not record[1] or record[2] then return { 'unknown', {}, redis.call('HGETALL', key) } end
local queue, keys = key .. ':queue', key .. ':keys'
local ticket = NODE .. ' ' .. number
local news = not disown(key, record[3]) and record[1] == version and {} or redis.call('HGETALL', key)

-- Many tickets and keys are of few nodes.
local found = {}
local function lives (node)
  if found[node] == nil then found[node] = alive(node) end
  return found[node]
end

local tickets = redis.call('LRANGE', queue, 0, -1)
local waiting, queued, head = 0, false, nil
for i, other in ipairs(tickets) do
  local node, _, weight = string.match(other, '^(%S+) (%d+) (%d+)$')
  if lives(node) then
    head = head or other
    waiting = waiting + weight
    if string.sub(other, 1, #ticket + 1) == ticket .. ' ' then queued = other end
  else redis.call('LREM', queue, 1, other) end
end

local verdicts, fresh, unclaimed = {}, 0, {}
for i = 4, #ARGS, 2 do
  local name, payload = ARGS[i], ARGS[i + 1]
  local verdict, claimed = 'new', name == ''
  local known = not claimed and redis.call('HGET', keys, name)
  if known then
    -- running: r, payload, its ticket, the nodes of those that wait; settled: s, payload, outcome
    local state, asked, rest = string.match(known, '^(%a) (%S+) (.*)$')
    local holder, waiters = string.match(rest, '^(%S+ %d+);(.*)$')
    if asked ~= payload then verdict = 'reused'
    elseif state == 's' then verdict = 's' .. rest
    elseif holder == ticket then claimed = true
    elseif lives(string.match(holder, '^%S+')) then
      verdict = 'wait'
      if not string.find(waiters, NODE, 1, true) then redis.call('HSET', keys, name, known .. NODE .. ',') end
    end
  end
  verdicts[#verdicts + 1] = verdict
  if verdict == 'new' then
    fresh = fresh + 1
    if not claimed then unclaimed[#unclaimed + 1] = i end
  end
end
if fresh > 0 and not queued then
  -- It may have been given up in the meantime; whoever has not is told. No failure: that would hold up what stands behind it.
  if again then return { 'again', {}, news } end
  if waiting > 0 and waiting - 1 + fresh > MAX_WAITING then return { 'many', { tostring(waiting - 1) }, news } end
  queued = ticket .. ' ' .. fresh
  redis.call('RPUSH', queue, queued)
  head = head or queued
end
for _, i in ipairs(unclaimed) do
  redis.call('HSET', keys, ARGS[i], 'r ' .. ARGS[i + 1] .. ' ' .. ticket .. ';')
  -- From here on they live as long as the record.
  if not record[4] then
    redis.call('HSET', key, 'keyed', 1)
    redis.call('PEXPIRE', keys, TTL)
    record[4] = '1'
  end
end
return { (not queued or head == queued) and 'run' or 'wait', verdicts, news }
