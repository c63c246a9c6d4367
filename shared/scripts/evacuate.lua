-- A worker has left or is known to be dead.
-- KEYS worker
-- ARGV prefix, worker, '1' where it has drained or ''
evacuate(ARGV[2], ARGV[3] == '1')
