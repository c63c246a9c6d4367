-- KEYS record
-- → version, body; or nothing
local f = redis.call('HMGET', KEYS[1], 'version', 'body')
if not f[1] then return false end
return { tonumber(f[1]), f[2] }
