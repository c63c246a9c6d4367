-- End a job before its time.
-- KEYS job
-- ARGV prefix, job, ending (cancelled), finished_ms, grace_ms
cancel(ARGV[2], ARGV[3], ARGV[4], ARGV[5])
