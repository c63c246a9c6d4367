-- What lives, and what waits for it.
-- KEYS gateways, workers
-- ARGV prefix, models ...
-- → live gateways; per live worker: name, models, slots, free, report, jobs that wait for it alone;
--   per model: jobs that wait for any worker; jobs that wait in all
local function waiting(model)
  local count = 0
  for _, priority in ipairs(PRIORITIES) do
    local lane = model .. ':' .. priority
    for _, tenant in ipairs(redis.call('LRANGE', P .. 'ring:' .. lane, 0, -1)) do
      for _, user in ipairs(redis.call('LRANGE', P .. 'ring:' .. lane .. ':' .. tenant, 0, -1)) do
        count = count + redis.call('LLEN', queue_key(lane, tenant, user))
      end
    end
  end
  return count
end

local workers, known = {}, redis.call('HGETALL', KEYS[2])
for i = 1, #known, 2 do
  local key = P .. 'worker:' .. known[i]
  local f = redis.call('HMGET', key, 'slots', 'free', 'report')
  if f[1] then
    local own = unread(key .. ':jobs')
    workers[#workers + 1] = { known[i], known[i + 1], tonumber(f[1]), tonumber(f[2]), f[3] or '', own }
  end
end

local models, counts = { unpack(ARGV, 2) }, {}
for i, model in ipairs(models) do
  counts[i] = waiting(model) + count_ready(model)
end
return { redis.call('ZRANGEBYSCORE', KEYS[1], now_ms(), '+inf'), workers, counts, count_unclaimed(models) }
