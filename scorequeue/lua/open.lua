-- open: ARGV job, protocol, idempotency digest or '', ttl_ms, deadline_ms or '', then the job's own fields and values.
-- Returns {job, created 0|1, state, chunks, chunk_rows, reader_options}. The same job id or idempotency key again returns
-- the job that is there.
local job, digest = ARGV[1], ARGV[3]

local function answer(found, created)
  local f = redis.call('HMGET', job_key(found), 'state', 'chunks', 'chunk_rows', 'reader_options')
  return {found, created, f[1], f[2], f[3], f[4]}
end

for _, old in ipairs(redis.call('ZRANGEBYSCORE', ENDINGS, '-inf', now, 'LIMIT', 0, SWEEP_LIMIT)) do
  redis.call('ZREM', ENDINGS, old)
  redis.call('ZREM', JOBS, old)
end
if digest ~= '' then
  local first = redis.call('GET', P .. 'key:' .. digest)
  if first and redis.call('EXISTS', job_key(first)) == 1 then return answer(first, 0) end
end
if redis.call('EXISTS', job_key(job)) == 1 then return answer(job, 0) end

redis.call('HSET', job_key(job), 'state', 'submitting', 'created', now, 'ttl', ARGV[4], 'total', 0, 'scored', 0,
  'failed', 0, 'cancelled', 0, 'truncated', 0, 'leased', 0, 'chunks', 0, 'done', 0, 'next', 0, 'in_ring', 0,
  unpack(ARGV, 6))
redis.call('HSETNX', META, 'protocol', ARGV[2])
redis.call('ZADD', JOBS, now, job)
local expires = now + UPLOAD_LIMIT_MS
if ARGV[5] ~= '' then
  redis.call('HSET', job_key(job), 'deadline', now + ARGV[5])
  expires = math.min(expires, now + ARGV[5])
end
redis.call('ZADD', DEADLINES, expires, job)
if digest ~= '' then
  redis.call('HSET', job_key(job), 'key', digest)
  redis.call('SET', P .. 'key:' .. digest, job)
end
return answer(job, 1)
