-- Is there a live worker whose name begins like this?
-- KEYS workers
-- ARGV prefix, beginning of the name
-- → 1 | 0
for _, worker in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(worker, 1, #ARGV[2]) == ARGV[2] and redis.call('EXISTS', P .. 'worker:' .. worker) == 1 then return 1 end
end
return 0
