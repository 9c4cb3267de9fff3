-- commit: ARGV job, index, token, scored, failed, truncated, payload.
-- Returns 'done', 'already' (this very commit came twice), 'lost' (the lease went to somebody else), 'closed' or 'gone'.
local job, index, token = ARGV[1], ARGV[2], ARGV[3]
local key = job_key(job)
local f = redis.call('HMGET', key, 'state', 'lane', 'chunks', 'done')
if not f[1] then return 'gone' end
local record = redis.call('HGET', job_key(job, 'chunks'), index)
if not record then return 'gone' end
if is_committed(record) then
  return string.match(record, '(%S+)$') == token and 'already' or 'lost'
end
if not is_open(f[1]) then return 'closed' end
local member = member_of(job, index)
local holder = redis.call('HGET', HOLDERS, member)
if not holder or string.match(holder, '^%S+') ~= token then return 'lost' end

local rows = record_rows(record)
if ARGV[4] + ARGV[5] ~= rows then return redis.error_reply('COUNT ' .. rows) end

-- Inputs go before results come: a full Redis can drain.
redis.call('HDEL', job_key(job, 'inputs'), index)
redis.call('ZREM', LEASES, member)
redis.call('HDEL', HOLDERS, member)
redis.call('HDEL', job_key(job, 'suspects'), index)
redis.call('ZREM', P .. 'lane:' .. f[2], member)
redis.call('HSET', job_key(job, 'results'), index, ARGV[7])
redis.call('HSET', job_key(job, 'chunks'), index, table.concat({record, ARGV[4], ARGV[5], ARGV[6], token}, ' '))
redis.call('HINCRBY', key, 'scored', ARGV[4])
redis.call('HINCRBY', key, 'failed', ARGV[5])
redis.call('HINCRBY', key, 'truncated', ARGV[6])
redis.call('HINCRBY', key, 'leased', -rows)
redis.call('HINCRBY', key, 'done', 1)
redis.call('HINCRBY', ROWS, f[2] .. ':backlog', -rows)
if f[1] ~= 'submitting' and f[4] + 1 == tonumber(f[3]) then finish(job, 'completed') end
return 'done'
