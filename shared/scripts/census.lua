-- How much there is of everything.
-- KEYS due
-- ARGV prefix, models ...
-- → unfinished jobs, jobs that no worker has, open sessions, jobs given up (the last 1000 at most)
return {
  redis.call('ZCARD', KEYS[1]),
  count_unclaimed({ unpack(ARGV, 2) }),
  redis.call('ZCARD', P .. 'sessions'),
  redis.call('XLEN', P .. 'dead'),
}
