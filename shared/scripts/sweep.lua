-- End the jobs that are past their deadline or that no gateway follows; forget sessions that expired.
-- KEYS due, sessions
-- ARGV prefix, finished_ms, grace_ms for the worker to end a running job itself, endings: cancelled, deadline
local now, grace = now_ms(), tonumber(ARGV[3])
for _, job in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, now, 'LIMIT', 0, 500)) do
  local f = redis.call('HMGET', P .. 'job:' .. job, 'state', 'deadline', 'cancelled')
  if not f[1] then
    redis.call('ZREM', KEYS[1], job)
    redis.call('DEL', P .. 'log:' .. job, P .. 'sub:' .. job)
  else
    local deadline, running = tonumber(f[2]), f[1] == 'running'
    local late = deadline <= now
    if running and late and now < deadline + grace then
      redis.call('ZADD', KEYS[1], deadline + grace, job)
    elseif running and not late and not f[3] then
      cancel(job, ARGV[4], ARGV[2])
      redis.call('ZADD', KEYS[1], now + grace, job)
    else
      finish_early(job, late and ARGV[5] or ARGV[4], ARGV[2])
    end
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], 0, now)
