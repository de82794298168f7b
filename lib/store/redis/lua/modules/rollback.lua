-- Reports all entries so far as lost. Called when Redis has lost data, for example because a replica without the newest writes was promoted.
return function ()
  -- An earlier rollback, which the sender has not received yet, has already reported this loss.
  if rollback_position > HIGHEST_POSITION then return end
  position = math.max(position, HIGHEST_POSITION, NOW) + 1
  rollback_position = position
  store_changes.position, store_changes.rollbackPosition, store_changes.noExpiryUntil = position, rollback_position, lease_clock + $LEASE * 2
  publish_all('rollback ' .. format_integer(rollback_position))
end
