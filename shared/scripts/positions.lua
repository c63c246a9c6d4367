-- Where a gateway's jobs are; also marks them as followed for another while.
-- KEYS due
-- ARGV prefix, gateway, orphan_ms, jobs...
-- → per job: state or 'gone', last seq, number of jobs before it
local now, found = now_ms(), {}
for i = 4, #ARGV do
  local job = ARGV[i]
  local key = P .. 'job:' .. job
  local f = redis.call('HMGET', key, 'state', 'last', 'deadline', 'model', 'priority', 'tenant', 'user', 'session',
    'unfollowed', 'cancelled')
  local ahead = 0
  if f[1] and f[1] ~= 'done' then
    redis.call('SADD', P .. 'sub:' .. job, ARGV[2])
    if not f[10] then redis.call('ZADD', KEYS[1], math.min(tonumber(f[3]), now + ARGV[3]), job) end
    if f[9] then redis.call('HDEL', key, 'unfollowed') end
    if f[1] == 'waiting' then
      local queue = queue_key(f[4] .. ':' .. f[5], f[6], f[7])
      ahead = (redis.call('LPOS', queue, job) or 0) + unread(ready_key(f[4], f[5])) + 1
    elseif f[1] == 'turn' then
      ahead = (redis.call('LPOS', P .. 'session:' .. f[8] .. ':turns', job) or 0) + 1
    end
  end
  found[#found + 1] = { f[1] or 'gone', tonumber(f[2]) or 0, ahead }
end
return found
