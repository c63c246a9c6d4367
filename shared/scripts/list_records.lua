-- An owner's records, the newest first. What has expired is forgotten on the way.
-- KEYS index
-- ARGV prefix, kind, id after which to begin (empty: the newest), number
-- → bodies
local bodies, from = {}, 0
if ARGV[3] ~= '' then
  local rank = redis.call('ZREVRANK', KEYS[1], ARGV[3])
  if not rank then return bodies end
  from = rank + 1
end
for _, id in ipairs(redis.call('ZREVRANGE', KEYS[1], from, -1)) do
  if #bodies == tonumber(ARGV[4]) then break end
  local body = redis.call('HGET', P .. ARGV[2] .. ':' .. id, 'body')
  if body then bodies[#bodies + 1] = body else redis.call('ZREM', KEYS[1], id) end
end
return bodies
