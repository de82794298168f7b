-- Channels, and what sessions read of them after leaving.

-- A channel is a hash, with a log. It exists while it has members, or entries that are kept. After that, former members may
-- still read its log. If its entries are kept, it has the field `keep`, in milliseconds. The sorted set `:members` has the ids of
-- the members, in the order of their joins; the field `joins` counts these.
local channels = {}

-- Returns the ranges of left channels that can have entries which the session has not read, the oldest first.
function channels.unread_ranges (key)
  local ranges, fields = {}, redis.call('HKEYS', key)
  work = work + #fields * 20
  for _, field in ipairs(fields) do
    local to, name = string.match(field, '^l:(%d+):(.*)$')
    if to then ranges[#ranges + 1] = { field = field, to = tonumber(to), name = name } end
  end
  table.sort(ranges, function (a, b) return a.to < b.to end)
  return ranges
end

-- Drops the range of a left channel. The loss is recorded in the session's own log, because the dropped range cannot report it.
function channels.drop_range (key, range, reason)
  redis.call('HDEL', key, range.field)
  require('log_removals').mark_trimmed(key, range.to, reason)
end

function channels.count (key) return redis.call('ZCARD', key .. ':members') end

function channels.bounds (keep)
  if to_number(keep) == 0 then return $CHANNEL_LOG end
  return { entries = $CHANNEL_LOG.entries, bytes = $CHANNEL_LOG.bytes, age = math.max($CHANNEL_LOG.age, tonumber(keep)) }
end

-- Sets the TTL of a channel. A channel that is kept does not expire before its log.
function channels.set_ttl (key, is_kept)
  redis.call('PEXPIRE', key, is_kept and math.max($TTL, redis.call('PTTL', key .. ':log') + 5000) or $TTL)
end

-- Lets a channel without members expire soon after its log. If the log does not exist any more, removes the channel.
function channels.set_ttl_of_log (key)
  if redis.call('EXISTS', key .. ':log') == 0 then redis.call('DEL', key)
  else redis.call('PEXPIRE', key, redis.call('PTTL', key .. ':log') + 5000) end
end

-- Sets the TTL of the members. Only `join` and `renew` renew it: if no node runs, sessions expire by their TTL, and nothing else
-- removes them from their channels.
function channels.renew_members (key) redis.call('PEXPIRE', key .. ':members', $TTL) end

function channels.exists (members, keep, last)
  return members > 0 or to_number(keep) > 0 and NOW - to_number(last) <= channels.bounds(keep).age * 1000
end

-- Creates a channel, whose history starts after the current position.
function channels.create (key, last)
  redis.call('HSET', key, 'historyStart', position)
  redis.call('HDEL', key, 'keep')
  -- If a channel with this name had entries before, Redis has removed them: all up to the current position count as lost.
  if not last then
    redis.call('HSET', key, 'trimmed', position, 'trimReason', 'age')
    redis.call('UNLINK', key .. ':log', key .. ':latest')
  end
end

-- Reads the newest entries up to a position, at most `count`, without those that exclude a session, until about READ_BYTES
-- are read. Returns the position up to which to continue, 0 if there are no more, and the frames, the newest first.
function channels.read_history (key, id, count, through)
  if count == 0 then return 0, {} end
  local start, keep = unpack(redis.call('HMGET', key, 'historyStart', 'keep'))
  local oldest = math.max(to_number(start) + 1, NOW - channels.bounds(keep).age * 1000)
  local frames, bytes = {}, 0
  while through >= oldest and bytes < $READ_BYTES do
    local chunk = redis.call('XREVRANGE', key .. ':log', format_integer(through), format_integer(oldest), 'COUNT', 8)
    for _, entry in ipairs(chunk) do
      local frame, except = entry[2][2], entry[2][4]
      bytes = bytes + #frame + 60
      work = work + #frame + 60
      through = tonumber(string.match(entry[1], '^%d+')) - 1
      if not (except and string.find(except, id, 1, true)) then frames[#frames + 1] = frame end
      if #frames == count then return 0, frames end
    end
    if #chunk < 8 then return 0, frames end
  end
  return through < oldest and 0 or through, frames
end

function channels.remove_member (name, id)
  work = work + 400
  local key = channel_key(name)
  redis.call('ZREM', key .. ':members', id)
  if channels.count(key) == 0 then channels.set_ttl_of_log(key) end
end

return channels
