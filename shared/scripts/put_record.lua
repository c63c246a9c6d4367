-- Keep a record, unless that id has one.
-- KEYS record, index of its owner
-- ARGV prefix, id, body, life in ms (0: for ever), bound of the owner's records
-- → 1, or 0 where the owner has too many
if redis.call('EXISTS', KEYS[1]) == 1 then return 1 end
-- Microseconds, so that records of one second keep their order.
local time = redis.call('TIME')
local now, life = time[1] * 1000000 + time[2], ARGV[4] * 1000
-- What has expired counts no longer.
if life > 0 then redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - life) end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[5]) then return 0 end
redis.call('HSET', KEYS[1], 'body', ARGV[3], 'version', 1)
if life > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
redis.call('ZADD', KEYS[2], now, ARGV[2])
return 1
