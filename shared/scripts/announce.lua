-- A gateway lives; those that were not heard are forgotten.
-- KEYS gateways
-- ARGV prefix, gateway, life_ms
local now = now_ms()
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
