-- retry: ARGV job, token of this call. Rows that failed while they were scored become pending again, on the job's version.
-- Their chunks come back ahead of what waits. Returns {how many, lane to wake or ''}; the same call again changes nothing.
local job, token = ARGV[1], ARGV[2]
local key = job_key(job)
local f = redis.call('HMGET', key, 'state', 'retry_token', 'retried', 'lane', 'model_version', 'discarded', 'key')
if not f[1] then return no_job(job) end
if f[2] == token then return {tonumber(f[3]), ''} end
if f[1] ~= 'completed' then return redis.error_reply('STATE ' .. f[1]) end
if f[6] then return redis.error_reply('DISCARDED') end

local AT_ONCE = 1000 -- chunks a call: one by one took three times as long
local kept = redis.call('HKEYS', job_key(job, 'inputs'))
table.sort(kept, function(a, b) return tonumber(a) < tonumber(b) end)
local rows, chunks = 0, #kept
for first = 1, chunks, AT_ONCE do
  local indices, records = {unpack(kept, first, math.min(first + AT_ONCE - 1, chunks))}, {}
  local arrivals, members = {}, {}
  for i, text in ipairs(redis.call('HMGET', job_key(job, 'chunks'), unpack(indices))) do
    local record = read_record(text)
    rows = rows + record.kept
    record.pending, record.failed, record.kept = record.kept, record.failed - record.kept, 0
    records[2 * i - 1], records[2 * i] = indices[i], format_record(record)
    members[i] = member_of(job, indices[i])
    arrivals[2 * i - 1], arrivals[2 * i] = now, members[i]
  end
  redis.call('HSET', job_key(job, 'chunks'), unpack(records))
  redis.call('ZADD', P .. 'lane:' .. f[4], unpack(arrivals))
  redis.call('RPUSH', place('front', f[4], f[5]), unpack(members))
end
if rows == 0 then return {0, ''} end
redis.call('HSET', key, 'state', 'queued', 'retrying', 1, 'retry_token', token, 'retried', rows)
redis.call('HDEL', key, 'finished', 'expires', 'deadline')
redis.call('HINCRBY', key, 'failed', -rows)
redis.call('HINCRBY', key, 'done', -chunks)
redis.call('ZREM', ENDINGS, job)
for _, part in ipairs({false, 'inputs', 'chunks', 'results'}) do redis.call('PERSIST', job_key(job, part)) end
if f[7] then redis.call('PERSIST', P .. 'key:' .. f[7]) end
redis.call('HINCRBY', ROWS, f[4] .. ':backlog', rows)
redis.call('HINCRBY', ROWS, f[4] .. ':waiting', rows)
redis.call('ZADD', WAITS, 'NX', now, f[5])
return {rows, lane_to_wake(f[4])}
