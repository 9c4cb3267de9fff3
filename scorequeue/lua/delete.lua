-- delete: ARGV job. Takes a job and all that is kept of it away; for an hour its id is known as deleted. Returns 1, or 0 when
-- it was deleted before.
allow_when_full()
local job = ARGV[1]
local state = redis.call('HGET', job_key(job), 'state')
if not state then return redis.call('ZSCORE', DELETED, job) and 0 or no_job(job) end
if is_open(state) then finish(job, 'cancelled') end
remove(job)
redis.call('ZADD', DELETED, now, job)
return 1
