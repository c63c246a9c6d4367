-- Accept a job once, however often it is sent.
-- KEYS job
-- ARGV prefix, job, gateway, request, model, priority, tenant, session or '', deadline_ms from now, orphan_ms,
--      finished_ms, bound of the tenant, bound of all, note
-- → accepted | known | no session | tenant busy DEPTH | busy DEPTH
local job, gateway, model, priority, tenant, session = ARGV[2], ARGV[3], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local key = KEYS[1]
local state = redis.call('HGET', key, 'state')
if state then
  if state ~= 'done' then redis.call('SADD', P .. 'sub:' .. job, gateway) end
  return { 'known', 0 }
end
if session ~= '' and redis.call('EXISTS', P .. 'session:' .. session) == 0 then return { 'no session', 0 } end
local depth = tonumber(redis.call('HGET', P .. 'waiting', tenant)) or 0
if depth >= tonumber(ARGV[12]) then return { 'tenant busy', depth } end
depth = tonumber(redis.call('HGET', P .. 'waiting', '*')) or 0
if depth >= tonumber(ARGV[13]) then return { 'busy', depth } end

local now, left = now_ms(), tonumber(ARGV[9])
redis.call('HSET', key, 'request', ARGV[4], 'model', model, 'priority', priority, 'tenant', tenant, 'session', session,
  'deadline', now + left, 'last', 0, 'claims', 0, 'stalls', 0, 'epoch', '', 'owner', '', 'note', ARGV[14])
redis.call('PEXPIRE', key, left + ARGV[11])
redis.call('SADD', P .. 'sub:' .. job, gateway)
redis.call('PEXPIRE', P .. 'sub:' .. job, left + ARGV[11])
redis.call('ZADD', P .. 'due', math.min(now + left, now + ARGV[10]), job)
if session ~= '' then renew_session(session, left) end
place(job, model, priority, tenant, session)
return { 'accepted', 0 }
