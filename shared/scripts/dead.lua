-- The jobs that were given up, the oldest first; those that nobody remembers any more are left out.
-- KEYS dead
-- ARGV prefix
-- → per job: job, time (ms), model, priority, tenant, tokens, claims
local found = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
  local job = entry[2][2]
  local f = redis.call('HMGET', P .. 'job:' .. job, 'dead', 'model', 'priority', 'tenant', 'last', 'claims')
  if f[1] == entry[1] then
    local at = tonumber(string.match(entry[1], '^%d+'))
    found[#found + 1] = { job, at, f[2], f[3], f[4], f[5] - 1, tonumber(f[6]) }
  else
    redis.call('XDEL', KEYS[1], entry[1])
  end
end
return found
