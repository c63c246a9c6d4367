-- End the jobs that are past their deadline or that no gateway follows; forget sessions that expired.
-- A job that seems to be followed by nobody is looked at once more: after a time without the broker, all gateways have
-- been silent. Then it ends with a failure: whoever comes back for it must not take half an answer for a whole one.
-- KEYS due, sessions
-- ARGV prefix, finished_ms, grace_ms: for a worker to end a late job itself, and for a gateway to follow one,
--      endings: cancelled, interrupted, deadline
local now, grace = now_ms(), tonumber(ARGV[3])
for _, job in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, now, 'LIMIT', 0, 500)) do
  local f = redis.call('HMGET', P .. 'job:' .. job, 'state', 'deadline', 'unfollowed', 'cancelled')
  local deadline = tonumber(f[2])
  if not f[1] then
    redis.call('ZREM', KEYS[1], job)
    redis.call('DEL', P .. 'log:' .. job, P .. 'sub:' .. job)
  elseif f[4] then
    finish_early(job, ARGV[4], ARGV[2])
  elseif deadline > now and not f[3] then
    leave_unfollowed(job, grace)
  elseif deadline > now then
    finish_early(job, ARGV[5], ARGV[2])
  elseif f[1] == 'running' and now < deadline + grace then
    redis.call('ZADD', KEYS[1], deadline + grace, job)
  else
    finish_early(job, ARGV[6], ARGV[2])
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], 0, now)
