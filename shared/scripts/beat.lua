-- A worker lives, and so do its leases. Without the check of the epoch a woken zombie would take its job back.
-- KEYS worker
-- ARGV prefix, worker, models, slots, free, lease_ms, report, then job, epoch ...
-- → jobs whose lease is gone, jobs that are to be cancelled
local worker, fenced, cancelled = ARGV[2], {}, {}
touch_worker(worker, ARGV[3], ARGV[4], ARGV[5], ARGV[6])
redis.call('HSET', KEYS[1], 'report', ARGV[7])
for i = 8, #ARGV, 2 do
  local f = redis.call('HMGET', P .. 'job:' .. ARGV[i], 'epoch', 'state', 'stream', 'entry', 'cancelled')
  if f[1] ~= ARGV[i + 1] or f[2] ~= 'running' then
    fenced[#fenced + 1] = ARGV[i]
  else
    redis.pcall('XCLAIM', f[3], 'workers', worker, 0, f[4], 'JUSTID')
    if f[5] then cancelled[#cancelled + 1] = ARGV[i] end
  end
end
return { fenced, cancelled }
