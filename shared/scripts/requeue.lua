-- A worker gives jobs back (drain): no attempt is counted.
-- KEYS worker
-- ARGV prefix, then job, epoch ...
for i = 2, #ARGV, 2 do
  local key = P .. 'job:' .. ARGV[i]
  local f = redis.call('HMGET', key, 'epoch', 'state', 'stream', 'entry', 'stalls')
  if f[1] == ARGV[i + 1] and f[2] == 'running' then
    redis.call('HSET', key, 'stalls', math.max(f[5] - 1, 0))
    requeue(ARGV[i], f[3], f[4])
  end
end
