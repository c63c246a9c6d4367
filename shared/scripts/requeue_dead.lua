-- Try a job again that was given up: its log goes on after its last token. No bound refuses it.
-- KEYS job, log, dead, due
-- ARGV prefix, job, deadline_ms from now, finished_ms
-- → 1, or 0 where it is no dead letter or its session is over
local job, left = ARGV[2], tonumber(ARGV[3])
local f = redis.call('HMGET', KEYS[1], 'dead', 'session')
if not f[1] then return 0 end
if f[2] ~= '' and redis.call('EXISTS', P .. 'session:' .. f[2]) == 0 then return 0 end
-- The ending must go, and its seq be free again: a stream takes no id twice, so the log is written anew.
local entries = redis.call('XRANGE', KEYS[2], '-', '+')
redis.call('DEL', KEYS[2])
local last = 0
for i = 1, #entries - 1 do
  redis.call('XADD', KEYS[2], entries[i][1], unpack(entries[i][2]))
  last = tonumber(string.match(entries[i][1], '^%d+'))
end
redis.call('XDEL', KEYS[3], f[1])
-- Its tokens were counted as it was given up.
redis.call('HDEL', KEYS[1], 'dead', 'token_ms')
redis.call('HSET', KEYS[1], 'last', last, 'stalls', 0, 'epoch', '', 'owner', '', 'deadline', now_ms() + left)
redis.call('PEXPIRE', KEYS[1], left + ARGV[4])
redis.call('ZADD', KEYS[4], now_ms() + left, job)
if f[2] ~= '' then renew_session(f[2], left) end
place(job)
return 1
