-- A worker has left or is known to be dead.
-- KEYS worker
-- ARGV prefix, worker
evacuate(ARGV[2])
