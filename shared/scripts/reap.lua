-- Take lost jobs from workers that are gone, and from those that hold them without beating.
-- KEYS workers
-- ARGV prefix, lease_ms, rest_ms: nothing is done where somebody has looked within this time
if tonumber(ARGV[3]) > 0 and not redis.call('SET', P .. 'reaped', 1, 'NX', 'PX', ARGV[3]) then return end
local function take_hung(stream)
  local held = redis.pcall('XPENDING', stream, 'workers', 'IDLE', ARGV[2], '-', '+', 1000)
  for _, row in ipairs(held.err and {} or held) do
    local entry = redis.call('XRANGE', stream, row[1], row[1])[1]
    if entry then requeue(entry[2][2], stream, entry[1]) end
  end
end

local models = {}
local workers = redis.call('HGETALL', KEYS[1])
for i = 1, #workers, 2 do
  for model in string.gmatch(workers[i + 1], '%S+') do
    models[model] = true
  end
  if redis.call('EXISTS', P .. 'worker:' .. workers[i]) == 0 then
    evacuate(workers[i])
  else
    take_hung(P .. 'worker:' .. workers[i] .. ':jobs')
  end
end
for model in pairs(models) do
  for _, lane in ipairs(LANES) do
    take_hung(ready_key(model, lane))
  end
end
