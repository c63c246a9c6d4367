-- Put first into every script: what the commonest one, an append of tokens, needs.
-- ARGV[1] is the prefix of all keys (one hash tag). Key schema: shared/keys.py.
local P = ARGV[1]

-- Write one log entry and tell every gateway that follows the job. The only PUBLISH of events: a worker whose lease
-- is gone cannot be heard. A gateway that nobody hears is forgotten; it attaches again when it is back.
local function emit(job, last, tokens, ending)
  redis.call('XADD', P .. 'log:' .. job, last .. '-0', 't', tokens, 'e', ending)
  if tokens == '' then
    redis.call('HSET', P .. 'job:' .. job, 'last', last)
  else
    redis.call('HSET', P .. 'job:' .. job, 'last', last, 'stalls', 0)
  end
  local message = job .. ' ' .. last .. ' ' .. #tokens .. '\n' .. tokens .. ending
  for _, gateway in ipairs(redis.call('SMEMBERS', P .. 'sub:' .. job)) do
    if redis.call('PUBLISH', P .. 'gateway:' .. gateway, message) == 0 then
      redis.call('SREM', P .. 'sub:' .. job, gateway)
    end
  end
end
