-- KEYS record, index of its owner
-- ARGV prefix, id
-- → 1, or 0 where it is gone already
redis.call('ZREM', KEYS[2], ARGV[2])
return redis.call('DEL', KEYS[1])
