-- ARGS: ids of runs that have no readers on this node any more. Returns 1.

-- After the first execution, they may have got readers again.
if is_retry then return 1 end
for _, id in ipairs(ARGS) do
  local reader_nodes = redis.call('HGET', run_key(id), 'readerNodes')
  if reader_nodes then
    local others = {}
    for node in string.gmatch(reader_nodes, '[^,]+') do if node ~= NODE_ID then others[#others + 1] = node .. ',' end end
    redis.call('HSET', run_key(id), 'readerNodes', table.concat(others))
  end
end
return 1
