-- Forget a job that was given up, its prompt at once.
-- KEYS job, log, dead
-- ARGV prefix
-- → 1, or 0 where it is no dead letter
local entry = redis.call('HGET', KEYS[1], 'dead')
if not entry then return 0 end
redis.call('XDEL', KEYS[3], entry)
redis.call('DEL', KEYS[1], KEYS[2])
return 1
