-- What a job's gateway noted about it.
-- KEYS job
-- ARGV prefix, account or ''
-- → the note, perhaps empty | nil where the job is gone, or another account's
local f = redis.call('HMGET', KEYS[1], 'note', 'account')
return f[2] == ARGV[2] and f[1]
