-- add_chunks: ARGV job, index of the first chunk, then rows, digest, payload of each.
-- Returns {how many chunks have arrived, lane to wake or ''}.
-- Chunks arrive in order, so what is there is a prefix; one sent again must have the digest it had.
local job, index = ARGV[1], tonumber(ARGV[2])
local key = job_key(job)
local f = redis.call('HMGET', key, 'state', 'lane', 'chunks', 'total', 'chunk_rows', 'model_version', 'digest')
if not f[1] then return no_job(job) end
local arrived, total, chunk_rows, digest = tonumber(f[3]), tonumber(f[4]), tonumber(f[5]), f[7]
if index > arrived then return redis.error_reply('GAP ' .. arrived) end

local new, rows_added = {}, 0
for i = 3, #ARGV, 3 do
  if index < arrived then
    local record = redis.call('HGET', job_key(job, 'chunks'), index)
    if not record or read_record(record).digest ~= ARGV[i + 1] then
      return redis.error_reply('CONFLICT ' .. index)
    end
  else
    -- Only the last chunk may be short: then a row's position follows from its chunk's index.
    if total ~= index * chunk_rows then return redis.error_reply('CONFLICT ' .. (index - 1)) end
    total = total + ARGV[i]
    rows_added = rows_added + ARGV[i]
    digest = redis.sha1hex(digest .. ARGV[i + 1])
    new[#new + 1] = i
  end
  index = index + 1
end
if #new == 0 then return {arrived, ''} end
if f[1] ~= 'submitting' then return redis.error_reply('CLOSED ' .. f[1]) end

for n, i in ipairs(new) do
  local at = arrived + n - 1
  redis.call('HSET', job_key(job, 'inputs'), at, ARGV[i + 2])
  write_record(job, at, {rows = ARGV[i], digest = ARGV[i + 1], pending = ARGV[i], scored = 0, failed = 0, truncated = 0,
    kept = 0, deaths = 0, token = '-'})
  redis.call('ZADD', P .. 'lane:' .. f[2], now, member_of(job, at))
end
redis.call('HSET', key, 'chunks', arrived + #new, 'total', total, 'digest', digest)
redis.call('HINCRBY', ROWS, f[2] .. ':backlog', rows_added)
redis.call('HINCRBY', ROWS, f[2] .. ':waiting', rows_added)
extend_upload(job)
local ring = place('ring', f[2], f[6])
if not redis.call('ZSCORE', ring, job) then redis.call('ZADD', ring, redis.call('HINCRBY', META, 'turn', 1), job) end
redis.call('ZADD', WAITS, 'NX', now, f[6] or '')
return {arrived + #new, lane_to_wake(f[2])}
