-- Whether to register, whether the registration was lost, the milliseconds between ticks. Shows that the node lives, and
-- has the active clock go on: it stands while Redis is away, and no session expires by that.

-- Sessions that are looked at, and those that fall to this node.
local LOOK, DUE = 512, 64
local register, lost, interval = ARGS[1] == '1', ARGS[2] == '1', tonumber(ARGS[3])
local at = num(redis.call('HGET', P, 'at'))
clock = clock + math.min(math.max(NOW - at, 0) / 1000, interval * 2)
changes.clock, changes.at = clock, NOW

for _, node in ipairs(redis.call('ZRANGEBYSCORE', P .. ':nodes', '-inf', clock - LEASE, 'LIMIT', 0, 16)) do bury(node) end
if register and not ran then
  ran, told = 0, 0
  changes['ran:' .. NODE], changes['told:' .. NODE] = 0, 0
end
if not ran then fail('FENCED') end
redis.call('ZADD', P .. ':nodes', clock, NODE)
if lost or pos < SEEN then goneBack() end

local due = {}
-- It falls to this node, for a while. By the half it is told from where the session waits for its client anew, which would be the same otherwise.
local function take (set, id)
  redis.call('ZADD', P .. set, clock + interval * 4 + 0.5, id)
  due[#due + 1] = id
  due[#due + 1] = redis.call('ZSCORE', P .. set, id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. ':deadlines', '-inf', clock, 'LIMIT', 0, LOOK)) do
  if #due == DUE * 2 then break end
  local owner, principal = unpack(redis.call('HMGET', session(id), 'owner', 'principal'))
  if owner and owner ~= '' then
    -- It has a stream; or its node has died, and it waits for its client from now on.
    disown(session(id), owner)
    wait(id, principal, RESUME)
  else take(':deadlines', id) end
end
-- Of these it is not known that the app was told.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. ':expired', '-inf', clock, 'LIMIT', 0, DUE)) do
  local ender = string.match(redis.call('HGET', P .. ':e:' .. id, 'ender') or '', '^[^:]+')
  if not ender then redis.call('ZREM', P .. ':expired', id)
  elseif ender == NODE or not alive(ender) then take(':expired', id)
  else redis.call('ZADD', P .. ':expired', clock + LEASE, id) end
end
-- Heard, or not, it shows whether what is told gets there.
tell(NODE, 'm ' .. int(pos))
return { int(NOW), int(pos), int(back), int(changes['told:' .. NODE]), int(num(redis.call('HGET', P .. ':b', 'last'))), redis.call('ZCARD', P .. ':deadlines'), due }
