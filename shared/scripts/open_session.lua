-- Open a dialogue.
-- KEYS session, sessions
-- ARGV prefix, session, model, max_length, idle_ms, bound of open sessions, account or ''
-- → 1, or 0 where too many are open
redis.call('ZREMRANGEBYSCORE', KEYS[2], 0, now_ms())
if redis.call('EXISTS', KEYS[1]) == 1 then return 1 end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[6]) then return 0 end
redis.call('HSET', KEYS[1], 'model', ARGV[3], 'max_length', ARGV[4], 'idle_ms', ARGV[5], 'held', 0,
  'ended', 0, 'account', ARGV[7])
renew_session(ARGV[2], 0)
return 1
