-- Give a worker jobs for its free slots.
-- KEYS worker, its own stream
-- ARGV prefix, worker, models (separated by spaces), slots, free, lease_ms, nonce, stall limit, finished_ms,
--      endings: cancelled, deadline, poison; dead_ms; then stream, entry, job of each entry that a blocking read has given already
-- → per job: job, epoch, request, ms left, ms waited (nil but at the first claim), log
--   entries, session or '', its max_length, held, committed ids (list)
local worker, models, free = ARGV[2], ARGV[3], tonumber(ARGV[5])
local nonce, finished_ms = ARGV[7], ARGV[9]
local stall_limit = tonumber(ARGV[8])
local claims = {}

local function session_of(name)
  if name == '' then return { '', 0, 0, {} } end
  local key = P .. 'session:' .. name
  local f = redis.call('HMGET', key, 'max_length', 'held', 'owner')
  -- What its former owner keeps for it is of no use any more, and takes room in the swarm.
  if f[3] and f[3] ~= worker then redis.call('PUBLISH', P .. 'control:' .. f[3], 'close ' .. name) end
  redis.call('HSET', key, 'owner', worker)
  return { name, tonumber(f[1]), tonumber(f[2]), redis.call('LRANGE', key .. ':ids', 0, -1) }
end

-- Whether the worker has a job on its last trial: one that has given no token since it was claimed, nor before.
local function has_trial()
  local job = redis.call('HGET', KEYS[1], 'trial')
  local f = job and redis.call('HMGET', P .. 'job:' .. job, 'owner', 'state', 'stalls')
  return f and f[1] == worker and f[2] == 'running' and tonumber(f[3]) == stall_limit
end

-- Start one entry, unless its job has ended or moved, or must end now. A job that already runs under this entry is
-- one whose claim this worker never heard of, because the reply was lost: it starts anew.
local function start(stream, entry, job)
  local key = P .. 'job:' .. job
  local f = redis.call('HMGET', key, 'state', 'entry', 'deadline', 'stalls', 'claims', 'request', 'session',
    'submitted')
  if not f[1] or f[1] == 'done' or f[2] ~= entry then
    redis.call('XACK', stream, 'workers', entry)
    redis.call('XDEL', stream, entry)
    return
  end
  local left = f[3] - now_ms()
  -- What gave no token time and again may be what its workers died of. A worker gives such jobs their last trial one at
  -- a time: else those that were lost with a poisonous one would be lost with it every time, and given up like it.
  local suspect = f[4] ~= '0' and tonumber(f[4]) == stall_limit - 1
  if suspect and has_trial() then return requeue(job, stream, entry) end
  if left <= 0 then return finish_early(job, ARGV[11], finished_ms) end
  if redis.call('HGET', key, 'cancelled') then return finish_early(job, ARGV[10], finished_ms) end
  if f[7] ~= '' and redis.call('EXISTS', P .. 'session:' .. f[7]) == 0 then
    return finish_early(job, ARGV[10], finished_ms)
  end
  if tonumber(f[4]) >= stall_limit then
    finish_early(job, ARGV[12], finished_ms)
    -- What an operator needs to try it again: see requeue_dead.lua.
    local dead = redis.call('XADD', P .. 'dead', 'MAXLEN', 1000, '*', 'job', job)
    redis.call('HSET', key, 'request', f[6], 'dead', dead)
    redis.call('PEXPIRE', key, ARGV[13])
    redis.call('PEXPIRE', P .. 'log:' .. job, ARGV[13])
    return
  end
  local epoch = (f[5] + 1) .. ':' .. nonce
  redis.call('HSET', key, 'state', 'running', 'owner', worker, 'epoch', epoch, 'claims', f[5] + 1, 'stalls', f[4] + 1,
    'started', now_ms())
  local s = session_of(f[7])
  local waited = f[5] == '0' and f[8] and now_ms() - f[8]
  local log = redis.call('XRANGE', P .. 'log:' .. job, '-', '+')
  claims[#claims + 1] = { job, epoch, f[6], left, waited, log, s[1], s[2], s[3], s[4] }
  if suspect then redis.call('HSET', KEYS[1], 'trial', job) end
end

local function read(stream)
  if #claims >= free then return end
  local command = { 'XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', free - #claims, 'STREAMS', stream, '>' }
  local reply = redis.pcall(unpack(command))
  if reply and reply.err then
    redis.call('XGROUP', 'CREATE', stream, 'workers', 0, 'MKSTREAM')
    reply = redis.call(unpack(command))
  end
  if not reply then return end
  for _, entry in ipairs(reply[1][2]) do
    start(stream, entry[1], entry[2][2])
  end
end

touch_worker(worker, models, ARGV[4], free, ARGV[6])
for i = 14, #ARGV, 3 do
  start(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
local streams = {}
for model in string.gmatch(models, '%S+') do
  promote(model)
  for _, lane in ipairs(LANES) do
    streams[#streams + 1] = ready_key(model, lane)
  end
end
-- Dialogues that come back, and all others, are first in turn: neither may take every slot.
table.insert(streams, redis.call('HINCRBY', KEYS[1], 'round', 1) % 2 == 0 and 1 or #streams + 1, KEYS[2])
for _, stream in ipairs(streams) do
  read(stream)
end
-- What is left for this worker alone, which may be busy for long, goes to whoever has a slot first, in its turn.
if #claims >= free and unread(KEYS[2]) > 0 then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+')) do
    local f = redis.call('HMGET', P .. 'job:' .. entry[2][2], 'state', 'model', 'priority')
    if f[1] == 'ready' and redis.call('SCARD', P .. 'serving:' .. f[2]) > 1 then
      requeue(entry[2][2], KEYS[2], entry[1], f[3])
    end
  end
end
redis.call('HSET', KEYS[1], 'free', math.max(free - #claims, 0))
return claims
