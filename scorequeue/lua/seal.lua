-- seal: ARGV job, chunks, rows, digest over the chunks' digests. Returns the state.
-- Says that all has arrived, and checks that it has.
allow_when_full()
local job = ARGV[1]
local key = job_key(job)
local f = redis.call('HMGET', key, 'state', 'chunks', 'total', 'digest', 'done', 'started', 'deadline', 'sealed')
if not f[1] then return no_job(job) end
if f[2] ~= ARGV[2] or f[3] ~= ARGV[3] or f[4] ~= ARGV[4] then
  -- Fewer than were sent: Redis lost the end of its history.
  if tonumber(f[2]) < tonumber(ARGV[2]) and f[1] == 'submitting' then return redis.error_reply('GAP ' .. f[2]) end
  return redis.error_reply('MISMATCH ' .. f[2] .. ' ' .. f[3])
end
if f[8] then return f[1] end
if f[1] ~= 'submitting' then return redis.error_reply('CLOSED ' .. f[1]) end -- it ended while it was uploaded

local state = f[6] and 'running' or 'queued'
redis.call('HSET', key, 'state', state, 'sealed', now)
if f[7] then redis.call('ZADD', DEADLINES, f[7], job) else redis.call('ZREM', DEADLINES, job) end
if f[2] == f[5] then
  finish(job, 'completed')
  return 'completed'
end
return state
