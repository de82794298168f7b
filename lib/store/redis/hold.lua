-- The number of sessions, id and epoch of each, then channels. Sessions whose stream of that epoch is on this node go on waiting for
-- as long as it lives; with an epoch of -1 the client is on its way; with 0 there is only the question. Answers with what has
-- become of each: its version, or `taken` where what was sent to it may not have been told to this node.
local count = tonumber(ARGS[1])
local answers = {}
local from = 2
for i = 1, count do
  local id, epoch = ARGS[from], ARGS[from + 1]
  from = from + 2
  local key = session(id)
  local record = redis.call('HMGET', key, 'epoch', 'endedBy', 'principal', 'owner', 'version')
  if not record[1] then answers[i] = 'gone'
  elseif epoch == '0' then answers[i] = record[5]
  elseif epoch ~= '-1' and record[1] ~= epoch then answers[i] = 'replaced'
  elseif again then answers[i] = 'taken'
  else
    answers[i] = record[5]
    if epoch ~= '-1' and record[4] ~= NODE then
      redis.call('HSET', key, 'owner', NODE)
      answers[i] = 'taken'
    end
    if record[2] then keep(key, RESUME)
    else
      wait(id, record[3], epoch == '-1' and RESUME or RESUME * 1.25)
      keep(key, TTL)
      if record[3] then redis.call('PEXPIRE', P .. ':p:' .. record[3], TTL) end
    end
  end
end
for i = from, #ARGS do
  if num(redis.call('HGET', channel(ARGS[i]), 'members')) > 0 then redis.call('PEXPIRE', channel(ARGS[i]), TTL) end
end
return answers
