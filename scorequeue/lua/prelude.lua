-- What every verb begins with. KEYS[1] is the namespace's prefix; names are documented in keys.py.
-- A script is one atomic step: either all of it is in the ledger or nothing is.
local P = KEYS[1]
local META, JOBS, ENDINGS, DEADLINES = P .. 'meta', P .. 'jobs', P .. 'endings', P .. 'deadlines'
local ROWS, LEASES, HOLDERS, CLOSED = P .. 'rows', P .. 'leases', P .. 'holders', P .. 'closed'
local UPLOAD_LIMIT_MS = 3600 * 1000 -- a job with no upload for so long expires
local FORGET_WORKER_MS = 3600 * 1000 -- a worker with no sign of life for so long leaves the lists
local SWEEP_LIMIT = 200             -- most leases, deadlines taken back in one call; the next call goes on
local FORGET_LIMIT = 1000           -- most members that leave a lane's zset in one call

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function job_key(job, part) return P .. 'job:' .. job .. (part and (':' .. part) or '') end
local function member_of(job, index) return job .. ':' .. index end
local function split_member(member) return string.match(member, '^(%x+):(%d+)$') end
local function is_open(state) return state == 'submitting' or state == 'queued' or state == 'running' end

-- Frees room first, so that a full Redis refuses only scripts that do not call this.
local function allow_when_full() redis.call('DEL', P .. 'scratch') end

local function record_rows(record) return tonumber(string.match(record, '^(%d+)')) end
local function is_committed(record) return string.match(record, '^%d+ %x+ %d+') ~= nil end

-- Ends a job: what is pending counts as cancelled, results get their term, whoever waits is told.
local function finish(job, state, reason)
  local key = job_key(job)
  local f = redis.call('HMGET', key, 'total', 'scored', 'failed', 'cancelled', 'leased', 'lane', 'ttl', 'chunks', 'key')
  local pending = f[1] - f[2] - f[3] - f[4]
  local expires = now + f[7]
  redis.call('DEL', job_key(job, 'inputs'))
  if pending > 0 then
    redis.call('HINCRBY', ROWS, f[6] .. ':backlog', -pending)
    redis.call('HINCRBY', ROWS, f[6] .. ':waiting', f[5] - pending)
    redis.call('RPUSH', CLOSED, job .. ' ' .. f[6] .. ' ' .. f[8])
  end
  redis.call('HSET', key, 'state', state, 'finished', now, 'expires', expires, 'cancelled', f[4] + pending, 'leased', 0)
  if reason then redis.call('HSET', key, 'error', reason) end
  redis.call('ZREM', DEADLINES, job)
  redis.call('ZADD', ENDINGS, expires, job)
  for _, part in ipairs({false, 'chunks', 'results', 'suspects'}) do
    redis.call('PEXPIREAT', job_key(job, part), expires)
  end
  if f[9] then redis.call('PEXPIREAT', P .. 'key:' .. f[9], expires) end
  redis.call('PUBLISH', P .. 'ended:' .. job, state)
end

-- A leased chunk goes back to the front of its lane. `counts` when its worker died with it, not when it let go.
local function take_back(member, counts)
  redis.call('ZREM', LEASES, member)
  redis.call('HDEL', HOLDERS, member)
  local job, index = split_member(member)
  local f = redis.call('HMGET', job_key(job), 'state', 'lane')
  local record = redis.call('HGET', job_key(job, 'chunks'), index)
  if not is_open(f[1]) or not record or is_committed(record) then return end
  local rows = record_rows(record)
  redis.call('HINCRBY', job_key(job), 'leased', -rows)
  redis.call('HINCRBY', ROWS, f[2] .. ':waiting', rows)
  redis.call('LPUSH', P .. 'front:' .. f[2], member)
  if counts then
    redis.call('HINCRBY', job_key(job, 'suspects'), index, 1)
    redis.call('HINCRBY', META, 'expired', 1)
  end
end

-- Stamps the ledger. After a silence of half a lease, Redis was away and not the workers: leases get a full term first.
-- A lease beyond one term, left by a clock that jumped, is cut to it.
local function stamp(lease_ms)
  local last = tonumber(redis.call('HGET', META, 'stamp') or now)
  local renewed = {}
  if now - last > lease_ms / 2 or last > now then
    renewed = redis.call('ZRANGE', LEASES, 0, -1)
  else
    renewed = redis.call('ZRANGEBYSCORE', LEASES, '(' .. (now + lease_ms), '+inf')
  end
  for _, member in ipairs(renewed) do redis.call('ZADD', LEASES, now + lease_ms, member) end
  redis.call('HSET', META, 'stamp', now)
end

-- Takes back what has run out: leases, deadlines, members of jobs that ended early.
local function sweep()
  local expired = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, SWEEP_LIMIT)
  for i = #expired, 1, -1 do take_back(expired[i], true) end -- backwards: each goes to the front, so the oldest ends first
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', now, 'LIMIT', 0, SWEEP_LIMIT)) do
    local state = redis.call('HGET', job_key(job), 'state')
    if state == 'submitting' then
      finish(job, 'expired', 'the upload stopped before it was sealed, or the deadline passed')
    elseif is_open(state) then
      finish(job, 'expired', 'the deadline passed')
    else
      redis.call('ZREM', DEADLINES, job)
    end
  end
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
