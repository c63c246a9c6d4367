-- End a job before its time.
-- KEYS job
-- ARGV prefix, job, ending (cancelled), finished_ms
cancel(ARGV[2], ARGV[3], ARGV[4])
