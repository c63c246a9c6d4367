-- Follow a job no longer; cancel it where that is wished and no other gateway follows.
-- KEYS job, sub
-- ARGV prefix, job, gateway, cancel 0/1, ending (cancelled), finished_ms
redis.call('SREM', KEYS[2], ARGV[3])
if ARGV[4] == '1' and redis.call('SCARD', KEYS[2]) == 0 then cancel(ARGV[2], ARGV[5], ARGV[6]) end
