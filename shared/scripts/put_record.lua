-- Keep a record, unless that id has one.
-- KEYS record, index of its owner
-- ARGV prefix, id, body, life in ms (0: for ever), bound of the owner's records
-- → 1, or 0 where the owner has too many
if redis.call('EXISTS', KEYS[1]) == 1 then return 1 end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[5]) then return 0 end
redis.call('HSET', KEYS[1], 'body', ARGV[3], 'version', 1)
if ARGV[4] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
-- By microseconds, so that records of one second keep their order.
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], time[1] * 1000000 + time[2], ARGV[2])
return 1
