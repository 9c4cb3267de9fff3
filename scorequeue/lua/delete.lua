-- delete: ARGV job. Takes a job and all that is kept of it away; for an hour its id is known as deleted. Returns 1, or 0 when
-- it was deleted before.
allow_when_full()
local job = ARGV[1]
local f = redis.call('HMGET', job_key(job), 'state', 'key')
if not f[1] then
  if redis.call('ZSCORE', DELETED, job) then return 0 end
  return no_job(job)
end
if is_open(f[1]) then finish(job, 'cancelled') end
redis.call('UNLINK', job_key(job), job_key(job, 'inputs'), job_key(job, 'chunks'), job_key(job, 'results'),
  job_key(job, 'deaths'))
if f[2] then redis.call('DEL', P .. 'key:' .. f[2]) end
redis.call('ZREM', JOBS, job)
redis.call('ZREM', ENDINGS, job)
redis.call('ZADD', DELETED, now, job)
redis.call('ZREMRANGEBYSCORE', DELETED, '-inf', now - FORGET_MS)
return 1
