-- What a session is; also renews its life, unless a job of it runs (whose end does).
-- KEYS session
-- ARGV prefix, session, account or ''
-- → nil where it does not exist, or is another account's | model, max_length, number of its jobs that have ended
local f = redis.call('HMGET', KEYS[1], 'model', 'max_length', 'running', 'account', 'ended')
if f[4] ~= ARGV[3] then return false end
if not f[3] then renew_session(ARGV[2], 0) end
return { f[1], tonumber(f[2]), tonumber(f[5]) }
