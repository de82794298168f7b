-- How long sessions and runs are kept.
local retention = {}

-- Returns the value that the lease clock will have after some milliseconds. Adds the time since the last heartbeat, as the next one will:
-- at most 2 seconds, twice the maximum time between heartbeats.
function retention.get_deadline (milliseconds) return lease_clock + math.min(math.max(NOW - clock_at, 0) / 1000, 2000) + milliseconds end

-- Milliseconds after which a session expires that a client is opening or resuming, if it is not renewed. At least a lease, so that the
-- session does not expire while its node may only be slow.
retention.OPENING_TIMEOUT = math.max($RESUME_TIMEOUT, $LEASE)

-- Milliseconds after which a session with a stream expires, if it is not renewed. Its node renews it each quarter of RESUME_TIMEOUT.
-- So if the node fails, its client has about RESUME_TIMEOUT or more to reconnect.
retention.STREAM_TIMEOUT = $RESUME_TIMEOUT * 1.25

-- Sets the time after which a session expires.
function retention.set_deadline (id, principal, milliseconds)
  local deadline = retention.get_deadline(milliseconds)
  redis.call('ZADD', KEY_PREFIX .. ':deadlines', deadline, id)
  if principal then redis.call('ZADD', KEY_PREFIX .. ':p:' .. principal, deadline, id) end
end

-- Sets the TTL of what is kept for a session. The log of an open session has its own, so that its entries expire by age.
function retention.set_ttl (key, milliseconds, with_log)
  for _, suffix in ipairs({ '', ':records', ':record_order', ':queue', with_log and ':log' or nil }) do redis.call('PEXPIRE', key .. suffix, milliseconds) end
end

return retention
