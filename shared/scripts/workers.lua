-- The live workers.
-- KEYS workers
-- ARGV prefix
-- → per worker: its models, separated by spaces
local found, workers = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #workers, 2 do
  if redis.call('EXISTS', P .. 'worker:' .. workers[i]) == 1 then found[#found + 1] = workers[i + 1] end
end
return found
