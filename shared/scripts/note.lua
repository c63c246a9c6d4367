-- What a job's gateway noted about it.
-- KEYS job
-- ARGV prefix
-- → the note, perhaps empty | nil where the job is gone
return redis.call('HGET', KEYS[1], 'note')
