-- Add events to a job's log, and at its end commit the session.
-- KEYS job
-- ARGV prefix, job, epoch, first seq, number of tokens, tokens, ending or '', finished_ms;
--      with a session to commit: ids (packed), held
-- → ok | fenced | gap | gone, last seq, cancelled 0/1
local job, epoch, first, tokens, ending = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[6], ARGV[7]
local f = redis.call('HMGET', KEYS[1], 'epoch', 'last', 'cancelled', 'state', 'session')
if not f[4] then return { 'gone', 0, 0 } end
local last, cancelled = tonumber(f[2]), f[3] and 1 or 0
if f[1] ~= epoch then return { 'fenced', last, 0 } end
local upto = first + ARGV[5] - (ending == '' and 1 or 0)
if f[4] ~= 'running' then return { ending ~= '' and upto == last and 'ok' or 'fenced', last, 0 } end
if upto <= last then return { 'ok', last, cancelled } end
if first ~= last + 1 then return { 'gap', last, cancelled } end

if ending == '' then
  emit(job, upto, tokens, '')
  return { 'ok', upto, cancelled }
end
-- prelude: not needed until here, and by far the most calls end here
local session = P .. 'session:' .. f[5]
if ARGV[9] and redis.call('HGET', session, 'running') == job then
  redis.call('RPUSH', session .. ':ids', ARGV[9])
  redis.call('HSET', session, 'held', ARGV[10])
end
-- The mean time of a model's jobs, in which the last ones weigh most.
local g = redis.call('HMGET', KEYS[1], 'model', 'started')
local pace, taken = tonumber(redis.call('HGET', P .. 'pace', g[1])), now_ms() - g[2]
redis.call('HSET', P .. 'pace', g[1], pace and pace + (taken - pace) / 16 or taken)
finish(job, upto, tokens, ending, ARGV[8])
return { 'ok', upto, cancelled }
