-- What every verb begins with, behind the constants of scripts.py. KEYS[1] is the namespace's prefix; names are documented
-- in keys.py. A script is one atomic step: either all of it is in the ledger or nothing is.
local P = KEYS[1]
local META, JOBS, ENDINGS, DEADLINES, DELETED = P .. 'meta', P .. 'jobs', P .. 'endings', P .. 'deadlines', P .. 'deleted'
local ROWS, LEASES, HOLDERS, NOTED = P .. 'rows', P .. 'leases', P .. 'holders', P .. 'noted'
local CLOSED, VOIDED, WAITS = P .. 'closed', P .. 'voided', P .. 'waits'
local LANES = {'express', 'bulk'}
local UPLOAD_LIMIT_MS = 3600 * 1000 -- a job with no upload for so long expires
local AWAKE_MS = 1000               -- a worker that claimed something so recently, and has not come away empty since, is awake
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
local function no_job(job) return redis.error_reply((redis.call('ZSCORE', DELETED, job) and 'DELETED ' or 'NOJOB ') .. job) end

-- Frees room first, so that a full Redis refuses only scripts that do not call this.
local function allow_when_full() redis.call('DEL', P .. 'scratch') end

-- Work is kept apart by what a worker needs to have ready for it: the version (none until the first claim pins one), and
-- the format of the chunks' bytes where it is not the first one.
local function group_of(version, format)
  return (version or '') .. ((format and format ~= FIRST_FORMAT) and ('@' .. format) or '')
end
local function place(kind, lane, group) return P .. kind .. ':' .. lane .. ':' .. group end

-- What a group of work is kept in, in all lanes.
local function places_of(group)
  local places = {}
  for _, kind in ipairs({'ring', 'front', 'suspect'}) do
    for _, lane in ipairs(LANES) do places[#places + 1] = place(kind, lane, group) end
  end
  return places
end

-- A chunk's record: how many rows it has, how many of them are pending, and what became of the others.
local function read_record(text)
  local rows, digest, pending, scored, failed, truncated, kept, token =
    string.match(text, '^(%d+) (%x+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+)$')
  return {
    rows = tonumber(rows), digest = digest, pending = tonumber(pending), scored = tonumber(scored),
    failed = tonumber(failed), truncated = tonumber(truncated), kept = tonumber(kept), token = token,
  }
end
local function format_record(r)
  return table.concat({r.rows, r.digest, r.pending, r.scored, r.failed, r.truncated, r.kept, r.token}, ' ')
end
local function write_record(job, index, record)
  redis.call('HSET', job_key(job, 'chunks'), index, format_record(record))
end

-- Wakes a worker: the Celery message is part of the step that brings the work (see bells.py). Whoever's last claim brought
-- something claims again without a bell; where all who live are awake like that, hearing one would only cost them time.
local function ring_bell(lane)
  local listeners = redis.call('ZCOUNT', P .. 'listeners:' .. lane, now - term, '+inf')
  if listeners > 0 and redis.call('ZCOUNT', P .. 'awake:' .. lane, now - AWAKE_MS, now) >= listeners then return end
  local queue = P .. 'celery:' .. lane
  if redis.call('LLEN', queue) < ENOUGH_BELLS then
    local id = redis.sha1hex(P .. lane .. redis.call('HINCRBY', META, 'bells', 1))
    redis.call('LPUSH', queue, (string.gsub(BELLS[lane], BELL_ID, id)))
  end
end

-- Ends a job: what is pending counts as cancelled, results get their term, whoever waits is told.
local function finish(job, state, reason)
  local key = job_key(job)
  local f = redis.call('HMGET', key, 'total', 'scored', 'failed', 'cancelled', 'leased', 'lane', 'ttl', 'chunks', 'key',
    'model_version', 'format', 'retrying')
  local pending = f[1] - f[2] - f[3] - f[4]
  local expires = now + f[7]
  if pending > 0 then
    redis.call('HINCRBY', ROWS, f[6] .. ':backlog', -pending)
    redis.call('HINCRBY', ROWS, f[6] .. ':waiting', f[5] - pending)
    redis.call('RPUSH', CLOSED, job .. ' ' .. f[6] .. ' ' .. f[8])
    -- A row that was to be tried again has failed before, and its result still says so.
    redis.call('HINCRBY', key, f[12] and 'failed' or 'cancelled', pending)
  end
  if state ~= 'completed' then -- a completed job's inputs are the texts that a retry would need
    redis.call('UNLINK', job_key(job, 'inputs'), job_key(job, 'deaths'))
  end
  redis.call('ZREM', place('ring', f[6], group_of(f[10], f[11])), job)
  redis.call('HSET', key, 'state', state, 'finished', now, 'expires', expires, 'leased', 0)
  redis.call('HDEL', key, 'retrying')
  if reason then redis.call('HSET', key, 'error', reason) end
  redis.call('ZREM', DEADLINES, job)
  redis.call('ZADD', ENDINGS, expires, job)
  for _, part in ipairs({false, 'inputs', 'chunks', 'results'}) do
    redis.call('PEXPIREAT', job_key(job, part), expires)
  end
  if f[9] then redis.call('PEXPIREAT', P .. 'key:' .. f[9], expires) end
  redis.call('PUBLISH', P .. 'ended:' .. job, state)
end

-- Takes all that is kept of an ended job away.
local function remove(job)
  local first = redis.call('HGET', job_key(job), 'key')
  redis.call('UNLINK', job_key(job), job_key(job, 'inputs'), job_key(job, 'chunks'), job_key(job, 'results'),
    job_key(job, 'deaths'))
  if first then redis.call('DEL', P .. 'key:' .. first) end
  redis.call('ZREM', JOBS, job)
  redis.call('ZREM', ENDINGS, job)
end

-- "deaths row:deaths row:deaths ..." of a chunk: how often its lease expired, and which row was the noted one then.
local function add_death(job, index, row)
  local deaths = job_key(job, 'deaths')
  local count, rest = string.match(redis.call('HGET', deaths, index) or '0', '^(%d+)(.*)$')
  count = count + 1
  if row then
    local found
    rest, found = string.gsub(rest, ' ' .. row .. ':(%d+)', function(before) return ' ' .. row .. ':' .. (before + 1) end)
    if found == 0 then rest = rest .. ' ' .. row .. ':1' end
  end
  redis.call('HSET', deaths, index, count .. rest)
  if count == SUSPECT_DEATHS then redis.call('HINCRBY', META, 'suspected', 1) end
end

-- A leased chunk goes back, ahead of what waits. `is_death`: its worker was lost with it, and did not let go.
local function take_back(member, is_death)
  local worker = string.match(redis.call('HGET', HOLDERS, member) or '', ' (%S+)$')
  redis.call('ZREM', LEASES, member)
  redis.call('HDEL', HOLDERS, member)
  local job, index = split_member(member)
  local f = redis.call('HMGET', job_key(job), 'state', 'lane', 'model_version', 'format')
  local record = redis.call('HGET', job_key(job, 'chunks'), index)
  if not is_open(f[1]) or not record then return end
  local pending = read_record(record).pending
  if pending == 0 then return end
  if is_death then
    redis.call('HINCRBY', META, 'expired', 1)
    local noted = worker and redis.call('HGET', NOTED, worker)
    local noted_member, row = string.match(noted or '', '^(%S+) (%d+)$')
    -- While one row ran alone, the worker's other chunks had no part in its death.
    if not noted_member or noted_member == member then add_death(job, index, row) end
  end
  redis.call('HINCRBY', job_key(job), 'leased', -pending)
  redis.call('HINCRBY', ROWS, f[2] .. ':waiting', pending)
  local deaths = tonumber(string.match(redis.call('HGET', job_key(job, 'deaths'), index) or '0', '^%d+'))
  local group = group_of(f[3], f[4])
  redis.call('LPUSH', place(deaths >= SUSPECT_DEATHS and 'suspect' or 'front', f[2], group), member)
  redis.call('ZADD', WAITS, 'NX', now, group)
end

-- Gives an upload its hour anew; a deadline that comes before stays.
local function extend_upload(job)
  local deadline = tonumber(redis.call('HGET', job_key(job), 'deadline') or math.huge)
  redis.call('ZADD', DEADLINES, math.min(now + UPLOAD_LIMIT_MS, deadline), job)
end

-- Stamps the ledger. After a silence of half a term, Redis was away and not the workers: leases get a full term first, and
-- uploads that would have run out a new hour. A lease beyond one term, left by a clock that jumped, is cut to it.
local function stamp()
  local last = tonumber(meta[3]) or now
  local renewed
  if now - last > term / 2 or last > now then
    renewed = redis.call('ZRANGE', LEASES, 0, -1)
    for _, job in ipairs(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', now)) do
      if redis.call('HGET', job_key(job), 'state') == 'submitting' then extend_upload(job) end
    end
  else
    renewed = redis.call('ZRANGEBYSCORE', LEASES, '(' .. (now + term), '+inf')
  end
  for _, member in ipairs(renewed) do redis.call('ZADD', LEASES, now + term, member) end
  redis.call('HSET', META, 'stamp', now)
end

-- Takes back what has run out: leases, deadlines, expired jobs, members of jobs that ended early.
local function sweep()
  local expired = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, SWEEP_LIMIT)
  for i = #expired, 1, -1 do take_back(expired[i], true) end -- backwards: each goes to the front, so the oldest ends first
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', now, 'LIMIT', 0, SWEEP_LIMIT)) do
    local f = redis.call('HMGET', job_key(job), 'state', 'deadline')
    if f[1] == 'submitting' and (tonumber(f[2]) or math.huge) > now then
      finish(job, 'expired', 'the upload stopped: nothing came for an hour, and it was not complete')
    elseif is_open(f[1]) then
      finish(job, 'expired', 'the deadline passed')
    else
      redis.call('ZREM', DEADLINES, job)
    end
  end
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', ENDINGS, '-inf', now, 'LIMIT', 0, SWEEP_LIMIT)) do
    redis.call('ZREM', ENDINGS, job)
    redis.call('ZREM', JOBS, job)
  end
  redis.call('ZREMRANGEBYSCORE', DELETED, '-inf', now - FORGET_MS)
  redis.call('ZREMRANGEBYSCORE', VOIDED, '-inf', now - FORGET_MS)
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
