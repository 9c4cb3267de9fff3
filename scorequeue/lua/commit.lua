-- commit: ARGV job, index, token, scored, failed, truncated, results, kept rows, kept texts or ''.
-- Returns 'done', 'already' (this very commit came twice), 'lost' (the lease went to somebody else), 'closed' or 'gone'.
allow_when_full()
local job, index, token = ARGV[1], ARGV[2], ARGV[3]
local key = job_key(job)
local f = redis.call('HMGET', key, 'state', 'lane', 'chunks', 'done')
local text = f[1] and redis.call('HGET', job_key(job, 'chunks'), index)
if not text then return 'gone' end
local record = read_record(text)
if record.pending == 0 then return record.token == token and 'already' or 'lost' end
if not is_open(f[1]) then return 'closed' end
local member = member_of(job, index)
if not is_held(member, token) then return 'lost' end
local pending = record.pending
if ARGV[4] + ARGV[5] ~= pending then return redis.error_reply('COUNT ' .. pending) end

-- Inputs go before results come: a full Redis can drain.
redis.call('HDEL', job_key(job, 'inputs'), index)
redis.call('ZREM', LEASES, member)
redis.call('HDEL', HOLDERS, member)
redis.call('ZREM', P .. 'lane:' .. f[2], member)
redis.call('HSET', job_key(job, 'results'), index, ARGV[7])
if ARGV[9] ~= '' then redis.call('HSET', job_key(job, 'inputs'), index, ARGV[9]) end
record.pending, record.deaths, record.token, record.kept = 0, 0, token, ARGV[8]
record.scored, record.failed = record.scored + ARGV[4], record.failed + ARGV[5]
record.truncated = record.truncated + ARGV[6]
write_record(job, index, record)
redis.call('HINCRBY', key, 'scored', ARGV[4])
redis.call('HINCRBY', key, 'failed', ARGV[5])
redis.call('HINCRBY', key, 'truncated', ARGV[6])
redis.call('HINCRBY', key, 'leased', -pending)
redis.call('HINCRBY', key, 'done', 1)
redis.call('HINCRBY', ROWS, f[2] .. ':backlog', -pending)
if f[1] ~= 'submitting' and f[4] + 1 == tonumber(f[3]) then finish(job, 'completed') end
return 'done'
