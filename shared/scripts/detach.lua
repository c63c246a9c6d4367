-- Follow a job no longer. Where no other gateway follows, that may be because it is just subscribing anew.
-- KEYS job, sub
-- ARGV prefix, job, gateway, grace_ms
redis.call('SREM', KEYS[2], ARGV[3])
local state = redis.call('HGET', KEYS[1], 'state')
if state and state ~= 'done' and redis.call('SCARD', KEYS[2]) == 0 then leave_unfollowed(ARGV[2], ARGV[4]) end
