-- retry: ARGV job, token of this call. Rows that failed while they were scored become pending again, on the job's version.
-- Returns how many; the same call again changes nothing.
local job, token = ARGV[1], ARGV[2]
local key = job_key(job)
local f = redis.call('HMGET', key, 'state', 'retry_token', 'retried', 'lane', 'model_version', 'format', 'discarded', 'key')
if not f[1] then return no_job(job) end
if f[2] == token then return tonumber(f[3]) end
if f[1] ~= 'completed' then return redis.error_reply('STATE ' .. f[1]) end
if f[7] then return redis.error_reply('DISCARDED') end

local rows, chunks = 0, 0
for _, index in ipairs(redis.call('HKEYS', job_key(job, 'inputs'))) do
  local record = read_record(redis.call('HGET', job_key(job, 'chunks'), index))
  rows, chunks = rows + record.kept, chunks + 1
  record.pending, record.failed, record.kept = record.kept, record.failed - record.kept, 0
  write_record(job, index, record)
  redis.call('ZADD', P .. 'lane:' .. f[4], now, member_of(job, index))
end
if rows == 0 then return 0 end
redis.call('HSET', key, 'state', 'queued', 'retrying', 1, 'retry_token', token, 'retried', rows, 'next', 0)
redis.call('HDEL', key, 'finished', 'expires', 'deadline')
redis.call('HINCRBY', key, 'failed', -rows)
redis.call('HINCRBY', key, 'done', -chunks)
redis.call('ZREM', ENDINGS, job)
for _, part in ipairs({false, 'inputs', 'chunks', 'results'}) do redis.call('PERSIST', job_key(job, part)) end
if f[8] then redis.call('PERSIST', P .. 'key:' .. f[8]) end
redis.call('HINCRBY', ROWS, f[4] .. ':backlog', rows)
redis.call('HINCRBY', ROWS, f[4] .. ':waiting', rows)
local group = group_of(f[5], f[6])
redis.call('ZADD', place('ring', f[4], group), redis.call('HINCRBY', META, 'turn', 1), job)
redis.call('ZADD', WAITS, 'NX', now, group)
ring_bell(f[4])
return rows
