-- Keep a record, unless that id has one.
-- KEYS record, index of its owner
-- ARGV prefix, id, body, created, life in ms (0: for ever), bound of the owner's records
-- → 1, or 0 where the owner has too many
if redis.call('EXISTS', KEYS[1]) == 1 then return 1 end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[6]) then return 0 end
redis.call('HSET', KEYS[1], 'body', ARGV[3], 'version', 1)
if ARGV[5] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[5]) end
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[2])
return 1
