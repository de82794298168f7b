-- ARGS: ids of runs that have no readers on this node any more. Returns 1.
-- They may have readers again since.
if is_retry then return 1 end
for _, id in ipairs(ARGS) do
  local followers = redis.call('HGET', runs.key(id), 'followers')
  if followers then
    local others = {}
    for node in string.gmatch(followers, '[^,]+') do if node ~= NODE then others[#others + 1] = node .. ',' end end
    redis.call('HSET', runs.key(id), 'followers', table.concat(others))
  end
end
return 1
