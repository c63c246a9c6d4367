-- Replace a record that nobody has changed meanwhile.
-- KEYS record
-- ARGV prefix, version that was read, body
-- → 1, or 0 where it has another version or is gone
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'body', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'version', 1)
return 1
