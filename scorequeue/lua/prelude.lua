-- What every verb begins with, behind the constants of scripts.py. KEYS[1] is the namespace's prefix; names are documented
-- in keys.py. A script is one atomic step: either all of it is in the ledger or nothing is.
local P = KEYS[1]
local META, JOBS, ENDINGS, DEADLINES, DELETED = P .. 'meta', P .. 'jobs', P .. 'endings', P .. 'deadlines', P .. 'deleted'
local ROWS, LEASES, HOLDERS = P .. 'rows', P .. 'leases', P .. 'holders'
local CLOSED, VOIDED, WAITS = P .. 'closed', P .. 'voided', P .. 'waits'
local LANES = {'express', 'bulk'}
local UPLOAD_LIMIT_MS = 3600 * 1000 -- a job with no upload for so long expires
local FORGET_MS = 3600 * 1000       -- silent workers, deleted jobs, claims given up are forgotten after so long
local SWEEP_LIMIT = 200             -- most leases, deadlines, ended jobs taken back in one call; the next call goes on
local FORGET_LIMIT = 1000           -- most members that leave a lane's zset in one call

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local meta = redis.call('HMGET', META, 'protocol', 'lease_ms', 'stamp')
if meta[1] and tonumber(meta[1]) ~= PROTOCOL then return redis.error_reply('PROTOCOL ' .. meta[1]) end
local term = tonumber(meta[2]) or DEFAULT_LEASE_MS -- the longest lease that a live worker takes

local function job_key(job, part) return P .. 'job:' .. job .. (part and (':' .. part) or '') end
local function member_of(job, index) return job .. ':' .. index end
local function split_member(member) return string.match(member, '^(%x+):(%d+)$') end
local function is_open(state) return state == 'submitting' or state == 'queued' or state == 'running' end
local function is_held(member, token) return string.match(redis.call('HGET', HOLDERS, member) or '', '^%S+') == token end
local function no_job(job) return redis.error_reply((redis.call('ZSCORE', DELETED, job) and 'DELETED ' or 'NOJOB ') .. job) end

-- Frees room first, so that a full Redis refuses only scripts that do not call this.
local function allow_when_full() redis.call('DEL', P .. 'scratch') end

-- Work is kept apart by the version that it needs; '' stands for jobs that no claim has pinned to one yet.
local function place(kind, lane, version) return P .. kind .. ':' .. lane .. ':' .. (version or '') end

-- A chunk's record: its rows, how many are pending, what became of the others, how often its lease has expired.
local function read_record(text)
  local r = {}
  r.rows, r.digest, r.pending, r.scored, r.failed, r.truncated, r.kept, r.deaths, r.token =
    string.match(text, '^(%d+) (%x+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+)$')
  r.pending = tonumber(r.pending) -- it is compared; Lua reckons with the others as they are
  return r
end
local function format_record(r)
  return table.concat({r.rows, r.digest, r.pending, r.scored, r.failed, r.truncated, r.kept, r.deaths, r.token}, ' ')
end
local function write_record(job, index, record)
  redis.call('HSET', job_key(job, 'chunks'), index, format_record(record))
end

-- The lane where a wake-up would start its work sooner, else ''. A worker whose claim has just brought something looks
-- again by itself; where all live ones are awake like that, or none lives, a message would wake no one.
local function lane_to_wake(lane)
  local listeners = redis.call('ZCOUNT', P .. 'listeners:' .. lane, now - term, '+inf')
  local awake = redis.call('ZCOUNT', P .. 'awake:' .. lane, now - AWAKE_MS, now)
  local waiting = redis.call('LLEN', P .. 'celery:' .. lane)
  return (awake < listeners and waiting < MOST_WAKE_UPS) and lane or ''
end

-- Ends a job: what is pending counts as cancelled, results get their term, whoever waits is told.
local function finish(job, state, reason)
  local key = job_key(job)
  local f = redis.call('HMGET', key, 'total', 'scored', 'failed', 'cancelled', 'leased', 'lane', 'ttl', 'chunks', 'key',
    'model_version', 'retrying')
  local pending, expires = f[1] - f[2] - f[3] - f[4], now + f[7]
  if pending > 0 then
    redis.call('HINCRBY', ROWS, f[6] .. ':backlog', -pending)
    redis.call('HINCRBY', ROWS, f[6] .. ':waiting', f[5] - pending)
    redis.call('RPUSH', CLOSED, job .. ' ' .. f[6] .. ' ' .. f[8])
    -- A row that was to be tried again has failed before, and its result still says so.
    redis.call('HINCRBY', key, f[11] and 'failed' or 'cancelled', pending)
  end
  if state ~= 'completed' then redis.call('UNLINK', job_key(job, 'inputs')) end -- else a retry would need them
  redis.call('ZREM', place('ring', f[6], f[10]), job)
  redis.call('HSET', key, 'state', state, 'finished', now, 'expires', expires, 'leased', 0)
  redis.call('HDEL', key, 'retrying')
  if reason then redis.call('HSET', key, 'error', reason) end
  redis.call('ZREM', DEADLINES, job)
  redis.call('ZADD', ENDINGS, expires, job)
  for _, part in ipairs({false, 'inputs', 'chunks', 'results'}) do redis.call('PEXPIREAT', job_key(job, part), expires) end
  if f[9] then redis.call('PEXPIREAT', P .. 'key:' .. f[9], expires) end
  redis.call('PUBLISH', P .. 'ended:' .. job, state)
end

-- Takes all that is kept of an ended job away.
local function remove(job)
  local first = redis.call('HGET', job_key(job), 'key')
  redis.call('UNLINK', job_key(job), job_key(job, 'inputs'), job_key(job, 'chunks'), job_key(job, 'results'))
  if first then redis.call('DEL', P .. 'key:' .. first) end
  redis.call('ZREM', JOBS, job)
  redis.call('ZREM', ENDINGS, job)
end

-- A leased chunk goes back, ahead of what waits. `is_death`: its lease ran out; its worker did not let go of it.
local function take_back(member, is_death)
  redis.call('ZREM', LEASES, member)
  redis.call('HDEL', HOLDERS, member)
  local job, index = split_member(member)
  local f = redis.call('HMGET', job_key(job), 'state', 'lane', 'model_version')
  local text = redis.call('HGET', job_key(job, 'chunks'), index)
  local record = is_open(f[1]) and text and read_record(text)
  if not record or record.pending == 0 then return end
  if is_death then
    redis.call('HINCRBY', META, 'expired', 1)
    record.deaths = record.deaths + 1
    write_record(job, index, record)
  end
  redis.call('HINCRBY', job_key(job), 'leased', -record.pending)
  redis.call('HINCRBY', ROWS, f[2] .. ':waiting', record.pending)
  redis.call('LPUSH', place('front', f[2], f[3]), member)
  redis.call('ZADD', WAITS, 'NX', now, f[3] or '')
end

-- Gives an upload its hour anew; a deadline that comes before stays.
local function extend_upload(job)
  local deadline = tonumber(redis.call('HGET', job_key(job), 'deadline') or math.huge)
  redis.call('ZADD', DEADLINES, math.min(now + UPLOAD_LIMIT_MS, deadline), job)
end

-- Stamps the ledger. After a silence of half a term, Redis was away and not the workers: leases get a full term first, and
-- uploads that would have run out a new hour. A lease beyond one term, left by a clock that jumped, is cut to it.
local function stamp()
  local last, first = tonumber(meta[3]) or now, '(' .. (now + term)
  if now - last > term / 2 or last > now then
    first = '-inf'
    for _, job in ipairs(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', now)) do
      if redis.call('HGET', job_key(job), 'state') == 'submitting' then extend_upload(job) end
    end
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', LEASES, first, '+inf')) do redis.call('ZADD', LEASES, now + term, member) end
  redis.call('HSET', META, 'stamp', now)
end

-- Takes back what has run out: leases, deadlines, expired jobs, members of jobs that ended early.
local function sweep()
  local expired = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, SWEEP_LIMIT)
  for i = #expired, 1, -1 do take_back(expired[i], true) end -- backwards: each goes to the front, so the oldest ends first
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', now, 'LIMIT', 0, SWEEP_LIMIT)) do
    local f = redis.call('HMGET', job_key(job), 'state', 'deadline')
    local is_stopped = f[1] == 'submitting' and (tonumber(f[2]) or math.huge) > now
    local why = is_stopped and 'the upload stopped: nothing came for an hour, and it was not complete' or 'the deadline passed'
    if is_open(f[1]) then finish(job, 'expired', why) else redis.call('ZREM', DEADLINES, job) end
  end
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', ENDINGS, '-inf', now, 'LIMIT', 0, SWEEP_LIMIT)) do
    redis.call('ZREM', ENDINGS, job)
    redis.call('ZREM', JOBS, job)
  end
  for _, key in ipairs({DELETED, VOIDED}) do redis.call('ZREMRANGEBYSCORE', key, '-inf', now - FORGET_MS) end
  local closed = redis.call('LPOP', CLOSED)
  if closed then
    local job, lane, chunks = string.match(closed, '^(%x+) (%l+) (%d+)$')
    local first = math.max(0, chunks - FORGET_LIMIT)
    local members = {}
    for index = first, chunks - 1 do members[#members + 1] = member_of(job, index) end
    if #members > 0 then redis.call('ZREM', P .. 'lane:' .. lane, unpack(members)) end
    if first > 0 then redis.call('RPUSH', CLOSED, job .. ' ' .. lane .. ' ' .. first) end
  end
end
