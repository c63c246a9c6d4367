-- How much there is of everything.
-- KEYS due
-- ARGV prefix
-- → unfinished jobs, jobs that wait for a worker, open sessions, jobs given up (the last 1000 at most)
return {
  redis.call('ZCARD', KEYS[1]),
  tonumber(redis.call('HGET', P .. 'waiting', '*')) or 0,
  redis.call('ZCARD', P .. 'sessions'),
  redis.call('XLEN', P .. 'dead'),
}
