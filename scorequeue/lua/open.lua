-- open: ARGV job, digest of the idempotency key or '', ttl_ms, deadline_ms or '', name of this ledger if it has none, then
-- the job's own fields and values.
-- Returns {job, created 0|1, state, chunks, chunk_rows, reader_options, version asked for, name of this ledger, ttl_ms}.
-- The same job id or idempotency key again returns the job that is there; an upload that stopped for so long that it expired
-- gives its key to a new job.
local job, key_digest = ARGV[1], ARGV[2]

local function answer(found, created)
  local f = redis.call('HMGET', job_key(found), 'state', 'chunks', 'chunk_rows', 'reader_options', 'asked_version', 'ttl')
  return {found, created, f[1], f[2], f[3], f[4], f[5] or '', redis.call('HGET', META, 'name'), f[6]}
end

if redis.call('ZSCORE', DELETED, job) then return no_job(job) end
if key_digest ~= '' then
  local first = redis.call('GET', P .. 'key:' .. key_digest)
  local f = first and redis.call('HMGET', job_key(first), 'state', 'sealed')
  if f and f[1] == 'expired' and not f[2] then
    remove(first)
  elseif f and f[1] then
    return answer(first, 0)
  end
end
if redis.call('EXISTS', job_key(job)) == 1 then return answer(job, 0) end

redis.call('HSET', job_key(job), 'state', 'submitting', 'created', now, 'ttl', ARGV[3], 'total', 0, 'scored', 0,
  'failed', 0, 'cancelled', 0, 'truncated', 0, 'leased', 0, 'chunks', 0, 'done', 0, 'next', 0, 'digest', '',
  unpack(ARGV, 6))
redis.call('HSETNX', META, 'protocol', PROTOCOL)
redis.call('HSETNX', META, 'name', ARGV[5])
redis.call('ZADD', JOBS, now, job)
if ARGV[4] ~= '' then redis.call('HSET', job_key(job), 'deadline', now + ARGV[4]) end
extend_upload(job)
if key_digest ~= '' then
  redis.call('HSET', job_key(job), 'key', key_digest)
  redis.call('SET', P .. 'key:' .. key_digest, job)
end
return answer(job, 1)
