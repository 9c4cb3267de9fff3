-- seal: ARGV job, chunks, rows. Returns the state. Says that all has arrived, and checks that it has.
allow_when_full()
local job = ARGV[1]
local key = job_key(job)
local f = redis.call('HMGET', key, 'state', 'chunks', 'total', 'done', 'started', 'deadline')
if not f[1] then return redis.error_reply('NOJOB ' .. job) end
if f[2] ~= ARGV[2] or f[3] ~= ARGV[3] then return redis.error_reply('MISMATCH ' .. f[2] .. ' ' .. f[3]) end
if f[1] ~= 'submitting' then return f[1] end

local state = f[5] and 'running' or 'queued'
redis.call('HSET', key, 'state', state, 'sealed', now)
if f[6] then redis.call('ZADD', DEADLINES, f[6], job) else redis.call('ZREM', DEADLINES, job) end
if f[2] == f[4] then
  finish(job, 'completed')
  return 'completed'
end
return state
