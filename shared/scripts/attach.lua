-- Follow a job: from here on its events are published to the gateway; those after the cursor are returned now.
-- KEYS job, log
-- ARGV prefix, job, gateway, cursor, limit
-- → nil where the job is gone | state, last seq, the first `limit` of those log entries
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return false end
if state ~= 'done' then redis.call('SADD', P .. 'sub:' .. ARGV[2], ARGV[3]) end
local entries = redis.call('XRANGE', KEYS[2], (ARGV[4] + 1) .. '-0', '+', 'COUNT', ARGV[5])
return { state, tonumber(redis.call('HGET', KEYS[1], 'last')), entries }
