-- Put before every script: what several operations share. Times are milliseconds of Redis' own clock.
local PRIORITIES = { 'interactive', 'batch' }
local LANES = { 'resumed', 'interactive', 'batch' }

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function ready_key(model, lane)
  return P .. 'ready:' .. model .. ':' .. lane
end

-- The number of accepted jobs that are not yet in a stream, of one tenant and ('*') of all.
local function count_waiting(tenant, step)
  for _, name in ipairs({ tenant, '*' }) do
    if redis.call('HINCRBY', P .. 'waiting', name, step) <= 0 then redis.call('HDEL', P .. 'waiting', name) end
  end
end

local function make_ready(job, stream)
  local entry = redis.call('XADD', stream, '*', 'job', job)
  redis.call('HSET', P .. 'job:' .. job, 'state', 'ready', 'stream', stream, 'entry', entry)
end

-- Entries of a stream that no worker has read yet. A stream whose group was lost has read nothing.
local function unread(stream)
  local pending = redis.pcall('XPENDING', stream, 'workers')
  return redis.call('XLEN', stream) - (pending.err and 0 or pending[1])
end

-- Jobs that any worker of the model may claim now.
local function count_ready(model)
  local count = 0
  for _, lane in ipairs(LANES) do
    count = count + unread(ready_key(model, lane))
  end
  return count
end

-- Jobs that no worker has: in no stream yet, or unread in those of these models and in those of single workers.
local function count_unclaimed(models)
  local count = tonumber(redis.call('HGET', P .. 'waiting', '*')) or 0
  for _, model in ipairs(models) do
    count = count + count_ready(model)
  end
  for _, worker in ipairs(redis.call('HKEYS', P .. 'workers')) do
    count = count + unread(P .. 'worker:' .. worker .. ':jobs')
  end
  return count
end

-- Slots of all live workers of a model: 'free' as of their last claim or beat, or all ('slots').
local function count_slots(model, which)
  local count = 0
  for _, worker in ipairs(redis.call('SMEMBERS', P .. 'serving:' .. model)) do
    count = count + (tonumber(redis.call('HGET', P .. 'worker:' .. worker, which)) or 0)
  end
  return count
end

-- How long so many jobs of a model take, by the mean time of the last ones; 0 where that is not known.
local function wait_ms(model, depth)
  local pace, slots = tonumber(redis.call('HGET', P .. 'pace', model)), count_slots(model, 'slots')
  return pace and slots > 0 and math.ceil(depth * pace / slots) or 0
end

-- Rates, by the generic cell rate algorithm: each request, or token, takes so many ms; a caller may be a minute ahead.
local function per_minute(number)
  return number == '0' and 0 or 60000 / number
end

-- How long the tenant must wait before it may go on.
local function rate_wait(kind, tenant, each_ms)
  if each_ms == 0 then return 0 end
  local until_ms = tonumber(redis.call('GET', P .. 'rate:' .. kind .. ':' .. tenant) or 0)
  return math.max(math.ceil(until_ms + each_ms - now_ms() - 60000), 0)
end

local function spend(kind, tenant, ms)
  if ms == 0 then return end
  local key, now = P .. 'rate:' .. kind .. ':' .. tenant, now_ms()
  local until_ms = math.max(tonumber(redis.call('GET', key) or 0), now) + ms
  -- What takes less time than a number of now can tell is made up for at once, but a key cannot live for no time.
  redis.call('SET', key, until_ms, 'PX', math.max(math.ceil(until_ms - now), 1))
end

-- The line of one of a tenant's users, in the lane MODEL:PRIORITY. No tenant has a space in its name, so that no user's
-- name can make it that of another tenant's line.
local function queue_key(lane, tenant, user)
  return P .. 'queue:' .. lane .. ':' .. tenant .. ' ' .. user
end

-- Put a job into its line; who has none yet takes a place among those who take turns.
local function line_up(job, lane, tenant, user)
  local ring = P .. 'ring:' .. lane
  if redis.call('RPUSH', queue_key(lane, tenant, user), job) > 1 then return end
  if redis.call('RPUSH', ring .. ':' .. tenant, user) == 1 then redis.call('RPUSH', ring, tenant) end
end

-- The job whose turn it is: tenants take turns, and within its turns a tenant's users. Nil where nobody is in line.
local function next_in_line(lane)
  local ring = P .. 'ring:' .. lane
  local tenant = redis.call('LPOP', ring)
  if not tenant then return end
  local user = redis.call('LPOP', ring .. ':' .. tenant)
  local queue = queue_key(lane, tenant, user)
  local job = redis.call('LPOP', queue)
  if redis.call('EXISTS', queue) == 1 then redis.call('RPUSH', ring .. ':' .. tenant, user) end
  if redis.call('EXISTS', ring .. ':' .. tenant) == 1 then redis.call('RPUSH', ring, tenant) end
  count_waiting(tenant, -1)
  return job
end

-- Take a job out of its line, and out of the turns who has none any more.
local function leave_line(job, lane, tenant, user)
  local ring, queue = P .. 'ring:' .. lane, queue_key(lane, tenant, user)
  if redis.call('LREM', queue, 1, job) == 0 then return end
  count_waiting(tenant, -1)
  if redis.call('EXISTS', queue) == 1 then return end
  redis.call('LREM', ring .. ':' .. tenant, 1, user)
  if redis.call('EXISTS', ring .. ':' .. tenant) == 0 then redis.call('LREM', ring, 1, tenant) end
end

-- The stream of the worker that owns the job's session, where that has a slot for it: nobody else need feed the
-- session's text anew. Nil where it has none, so that no session waits for one worker while others are idle.
local function owner_stream(job)
  local session = redis.call('HGET', P .. 'job:' .. job, 'session')
  local owner = session ~= '' and redis.call('HGET', P .. 'session:' .. session, 'owner')
  if not owner then return end
  local key = P .. 'worker:' .. owner
  local free = tonumber(redis.call('HGET', key, 'free')) or 0
  if free > 0 and free > unread(key .. ':jobs') then return key .. ':jobs' end
end

-- Jobs move from their lines into the ready streams while these are shorter than twice the free slots.
local function promote(model)
  local room = 2 * count_slots(model, 'free')
  for _, priority in ipairs(PRIORITIES) do
    local lane = model .. ':' .. priority
    -- Workers read the lanes in this order, so that what lies in a later one is not in the way of an earlier one.
    room = room - unread(ready_key(model, priority))
    while room > 0 do
      local job = next_in_line(lane)
      if not job then break end
      if redis.call('EXISTS', P .. 'job:' .. job) == 1 then
        make_ready(job, owner_stream(job) or ready_key(model, priority))
        room = room - 1
      end
    end
  end
end

-- Queue a job: in its session's line while another job of the session runs, else among its tenant's jobs.
local function place(job)
  local f = redis.call('HMGET', P .. 'job:' .. job, 'model', 'priority', 'tenant', 'user', 'session')
  local model, priority, tenant, user, session = unpack(f)
  if session ~= '' then
    local key = P .. 'session:' .. session
    local running = redis.call('HGET', key, 'running')
    if running and running ~= job then
      redis.call('RPUSH', key .. ':turns', job)
      redis.call('PEXPIRE', key .. ':turns', math.max(redis.call('PTTL', key), 1))
      redis.call('HSET', P .. 'job:' .. job, 'state', 'turn')
      count_waiting(tenant, 1)
      return
    end
    redis.call('HSET', key, 'running', job)
  end
  line_up(job, model .. ':' .. priority, tenant, user)
  redis.call('HSET', P .. 'job:' .. job, 'state', 'waiting')
  count_waiting(tenant, 1)
  promote(model)
end

-- Take a job out of wherever it stands in line or is claimed.
local function unplace(job)
  local key = P .. 'job:' .. job
  local f = redis.call('HMGET', key, 'state', 'stream', 'entry', 'model', 'priority', 'tenant', 'user', 'session')
  if f[1] == 'ready' or f[1] == 'running' then
    redis.call('XACK', f[2], 'workers', f[3])
    redis.call('XDEL', f[2], f[3])
  elseif f[1] == 'turn' then
    redis.call('LREM', P .. 'session:' .. f[8] .. ':turns', 1, job)
    count_waiting(f[6], -1)
  elseif f[1] == 'waiting' then
    leave_line(job, f[4] .. ':' .. f[5], f[6], f[7])
  end
end

-- Sessions live on while they are used; `extra` is how long a job of theirs may still take.
local function renew_session(session, extra)
  local key = P .. 'session:' .. session
  local idle = tonumber(redis.call('HGET', key, 'idle_ms'))
  if not idle then return end
  for _, name in ipairs({ key, key .. ':ids', key .. ':turns' }) do
    redis.call('PEXPIRE', name, idle + extra)
  end
  redis.call('ZADD', P .. 'sessions', now_ms() + idle + extra, session)
end

-- The job's session is free: its next job in line goes on.
local function next_turn(session, job)
  local key = P .. 'session:' .. session
  if redis.call('HGET', key, 'running') ~= job then return end
  redis.call('HDEL', key, 'running')
  local following = redis.call('LPOP', key .. ':turns')
  if not following then return renew_session(session, 0) end
  local tenant = redis.call('HGET', P .. 'job:' .. following, 'tenant')
  if not tenant then
    redis.call('HSET', key, 'running', following)
    return next_turn(session, following)
  end
  count_waiting(tenant, -1)
  place(following)
end

-- End a job with an entry that holds its ending (and perhaps its last tokens).
local function finish(job, last, tokens, ending, finished_ms)
  emit(job, last, tokens, ending)
  unplace(job)
  local key = P .. 'job:' .. job
  local f = redis.call('HMGET', key, 'session', 'last', 'tenant', 'token_ms', 'owner')
  local worker = P .. 'worker:' .. f[5]
  if redis.call('HEXISTS', worker, 'free') == 1 then redis.call('HINCRBY', worker, 'free', 1) end
  if f[4] then spend('tokens', f[3], (f[2] - 1) * f[4]) end
  redis.call('HSET', key, 'state', 'done')
  redis.call('HDEL', key, 'request', 'stream', 'entry', 'cancelled', 'unfollowed')
  redis.call('ZREM', P .. 'due', job)
  redis.call('DEL', P .. 'sub:' .. job)
  redis.call('PEXPIRE', key, finished_ms)
  redis.call('PEXPIRE', P .. 'log:' .. job, finished_ms)
  if f[1] == '' then return end
  local session = P .. 'session:' .. f[1]
  if redis.call('EXISTS', session) == 1 then redis.call('HINCRBY', session, 'ended', 1) end
  next_turn(f[1], job)
end

local function finish_early(job, ending, finished_ms)
  local last = tonumber(redis.call('HGET', P .. 'job:' .. job, 'last'))
  finish(job, last + 1, '', ending, finished_ms)
end

-- A running job ends at its worker's next token, or, where that is gone, at the next look after it is due; any other job
-- at once.
local function cancel(job, ending, finished_ms, grace_ms)
  local f = redis.call('HMGET', P .. 'job:' .. job, 'state', 'owner')
  if not f[1] or f[1] == 'done' then return end
  if f[1] ~= 'running' then return finish_early(job, ending, finished_ms) end
  redis.call('HSET', P .. 'job:' .. job, 'cancelled', 1)
  redis.call('ZADD', P .. 'due', now_ms() + grace_ms, job)
  redis.call('PUBLISH', P .. 'control:' .. f[2], 'cancel ' .. job)
end

-- Nobody follows a job; it ends in `grace_ms`, unless a gateway says by then that it does.
local function leave_unfollowed(job, grace_ms)
  redis.call('HSET', P .. 'job:' .. job, 'unfollowed', 1)
  redis.call('ZADD', P .. 'due', now_ms() + grace_ms, job)
end

-- Take a job from its worker and let any other go on with it, before all new ones, or in that lane.
local function requeue(job, stream, entry, lane)
  redis.call('XACK', stream, 'workers', entry)
  redis.call('XDEL', stream, entry)
  local key = P .. 'job:' .. job
  local f = redis.call('HMGET', key, 'entry', 'model', 'state')
  if f[1] ~= entry or f[3] == 'done' then return end
  redis.call('HSET', key, 'epoch', '', 'owner', '')
  make_ready(job, ready_key(f[2], lane or 'resumed'))
end

-- A worker is there, serves these models (separated by spaces), and lives for `lease_ms` unless it is heard again.
local function touch_worker(worker, models, slots, free, lease_ms)
  redis.call('HSET', P .. 'worker:' .. worker, 'free', free, 'slots', slots)
  redis.call('PEXPIRE', P .. 'worker:' .. worker, lease_ms)
  redis.call('HSET', P .. 'workers', worker, models)
  for model in string.gmatch(models, '%S+') do
    redis.call('SADD', P .. 'serving:' .. model, worker)
  end
end

-- A worker is gone: all that it held, or that stood in its own stream, goes to others. Where it has drained, that was no
-- attempt at what it was just being given.
local function evacuate(worker, has_drained)
  local function give_back(stream, entry)
    local job = entry[2][2]
    local key = P .. 'job:' .. job
    local f = has_drained and redis.call('HMGET', key, 'state', 'entry', 'stalls')
    if f and f[1] == 'running' and f[2] == entry[1] then
      redis.call('HSET', key, 'stalls', math.max(f[3] - 1, 0))
    end
    requeue(job, stream, entry[1])
  end
  local models = redis.call('HGET', P .. 'workers', worker)
  if not models then return end
  for model in string.gmatch(models, '%S+') do
    for _, lane in ipairs(LANES) do
      local stream = ready_key(model, lane)
      local held = redis.pcall('XPENDING', stream, 'workers', '-', '+', 10000, worker)
      for _, row in ipairs(held.err and {} or held) do
        local entry = redis.call('XRANGE', stream, row[1], row[1])[1]
        if entry then give_back(stream, entry) end
      end
      redis.pcall('XGROUP', 'DELCONSUMER', stream, 'workers', worker)
    end
    redis.call('SREM', P .. 'serving:' .. model, worker)
  end
  local own = P .. 'worker:' .. worker .. ':jobs'
  for _, entry in ipairs(redis.call('XRANGE', own, '-', '+')) do
    give_back(own, entry)
  end
  redis.call('DEL', own, P .. 'worker:' .. worker)
  redis.call('HDEL', P .. 'workers', worker)
end
