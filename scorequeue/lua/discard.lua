-- discard: ARGV job, when it ended as its reader saw it or ''. Results leave Redis, and with them what a retry would need; the
-- counters and the chunk records stay. Returns how many chunks had results.
allow_when_full()
local key = job_key(ARGV[1])
local f = redis.call('HMGET', key, 'state', 'discarded', 'finished')
if not f[1] then return no_job(ARGV[1]) end
if is_open(f[1]) then return redis.error_reply('STATE ' .. f[1]) end
-- A retry has ended since: there are results that the reader has not seen.
if tonumber(f[3]) ~= tonumber(ARGV[2]) then return redis.error_reply('CHANGED') end
if f[2] then return tonumber(f[2]) end
local chunks = redis.call('HLEN', job_key(ARGV[1], 'results'))
redis.call('UNLINK', job_key(ARGV[1], 'results'), job_key(ARGV[1], 'inputs'))
redis.call('HSET', key, 'discarded', chunks)
return chunks
