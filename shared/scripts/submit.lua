-- Accept a job once, however often it is sent.
-- KEYS job
-- ARGV prefix, job, gateway, request, model, priority, tenant, user or '', session or '', deadline_ms from now,
--      orphan_ms, finished_ms, bound of the tenant, bound of all, note, account or '', requests and tokens of the tenant
--      a minute (0: any number), number of the session's jobs that the client has seen end, prompts that it counts for
-- → accepted | known | taken | no session | forgotten | too fast | tenant busy | busy; with the last three: depth, ms to wait
local job, gateway, model, tenant, session, account = ARGV[2], ARGV[3], ARGV[5], ARGV[7], ARGV[9], ARGV[16]
local key = KEYS[1]
local state = redis.call('HGET', key, 'state')
if state then
  if redis.call('HGET', key, 'account') ~= account then return { 'taken' } end
  if state ~= 'done' then redis.call('SADD', P .. 'sub:' .. job, gateway) end
  return { 'known' }
end
if session ~= '' then
  local f = redis.call('HMGET', P .. 'session:' .. session, 'account', 'ended')
  if f[1] ~= account then return { 'no session' } end
  -- A server that lost its last second has lost what the client has read: it would go on as if that had not been said.
  if tonumber(f[2]) < tonumber(ARGV[19]) then return { 'forgotten' } end
end
local prompts, token_ms = tonumber(ARGV[20]), per_minute(ARGV[18])
local request_ms = prompts * per_minute(ARGV[17])
-- A request is let in as a whole: what counts for none belongs to one whose first job was.
if prompts > 0 then
  local wait = math.max(rate_wait('requests', tenant, request_ms), rate_wait('tokens', tenant, token_ms))
  if wait > 0 then return { 'too fast', 0, wait } end
end
-- The number of jobs that wait, where that leaves no room for all of the request's. One that needs more than may ever
-- wait is tried where none does: workers may take some of its jobs at once.
local function too_many(name, bound)
  local depth = tonumber(redis.call('HGET', P .. 'waiting', name)) or 0
  if depth + math.max(math.min(prompts, bound), 1) > bound then return depth end
end
local depth = too_many(tenant, tonumber(ARGV[13]))
if depth then return { 'tenant busy', depth, wait_ms(model, depth) } end
depth = too_many('*', tonumber(ARGV[14]))
if depth then return { 'busy', depth, wait_ms(model, depth) } end

local now, left = now_ms(), tonumber(ARGV[10])
redis.call('HSET', key, 'request', ARGV[4], 'model', model, 'priority', ARGV[6], 'tenant', tenant, 'user', ARGV[8],
  'session', session, 'submitted', now, 'deadline', now + left, 'last', 0, 'claims', 0, 'stalls', 0, 'epoch', '',
  'owner', '', 'note', ARGV[15], 'account', account)
if token_ms > 0 then redis.call('HSET', key, 'token_ms', token_ms) end
spend('requests', tenant, request_ms)
redis.call('PEXPIRE', key, left + ARGV[12])
redis.call('SADD', P .. 'sub:' .. job, gateway)
redis.call('PEXPIRE', P .. 'sub:' .. job, left + ARGV[12])
redis.call('ZADD', P .. 'due', math.min(now + left, now + ARGV[11]), job)
if session ~= '' then renew_session(session, left) end
place(job)
return { 'accepted' }
