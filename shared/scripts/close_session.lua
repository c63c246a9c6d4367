-- Close a dialogue, unless it is another account's: its jobs are cancelled, its owner frees what it keeps for it.
-- KEYS session, sessions
-- ARGV prefix, session, ending (cancelled), finished_ms, grace_ms, account or ''
local f = redis.call('HMGET', KEYS[1], 'running', 'owner', 'account')
if f[3] ~= ARGV[6] then return end
for _, job in ipairs(redis.call('LRANGE', KEYS[1] .. ':turns', 0, -1)) do
  cancel(job, ARGV[3], ARGV[4], ARGV[5])
end
if f[1] then cancel(f[1], ARGV[3], ARGV[4], ARGV[5]) end
if f[2] then redis.call('PUBLISH', P .. 'control:' .. f[2], 'close ' .. ARGV[2]) end
redis.call('DEL', KEYS[1], KEYS[1] .. ':ids', KEYS[1] .. ':turns')
redis.call('ZREM', KEYS[2], ARGV[2])
