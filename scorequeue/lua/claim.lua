-- claim: ARGV request (JSON: worker, token, lease_ms, versions, default, refused: {version: why},
-- lanes: [[lane, room_rows, max_chunks], ...]); '' is among the versions and stands for jobs without one.
-- Takes back what has run out, then leases chunks: lane by lane, what came back before what is new.
-- Returns {version that waits, ms it has waited, then of each chunk its job, index, version, first row, pending rows, deaths,
-- payload, results of before (where it is tried again)}.
allow_when_full()
local request = cjson.decode(ARGV[1])
if not meta[2] then term = request.lease_ms redis.call('HSET', META, 'lease_ms', term) end
stamp()
sweep()

local reply = {'', 0}
-- Its worker had no answer, and has given back what it does not know of; this is the call, late.
if redis.call('ZSCORE', VOIDED, request.token) then return reply end

local GIVE_UP_MS = 600 * 1000
local ready = {}
for _, version in ipairs(request.versions) do
  ready[version] = true
  redis.call('ZADD', WAITS, 'XX', now, version)
  redis.call('HDEL', META, 'refused:' .. version)
end

-- Whether work waits for a version; chunks of ended jobs at the head of what came back leave.
local function has_work(version)
  for _, lane in ipairs(LANES) do
    local front = place('front', lane, version)
    for _ = 1, SWEEP_LIMIT do
      local member = redis.call('LINDEX', front, 0)
      if not member or is_open(redis.call('HGET', job_key((split_member(member))), 'state')) then break end
      redis.call('LPOP', front)
    end
    if redis.call('EXISTS', front, place('ring', lane, version)) > 0 then return true end
  end
  return false
end

-- A worker could not load a version: its jobs fail once that has gone on for ten minutes.
local function refuse(version, why)
  local reason = 'workers could not load version ' .. version .. ': ' .. why
  redis.call('HSETNX', META, 'refused:' .. version, now)
  if now - redis.call('HGET', META, 'refused:' .. version) < GIVE_UP_MS then return end
  for _, lane in ipairs(LANES) do
    local jobs = redis.call('ZRANGE', place('ring', lane, version), 0, SWEEP_LIMIT - 1)
    jobs[#jobs + 1] = split_member(redis.call('LINDEX', place('front', lane, version), 0) or '')
    for _, job in ipairs(jobs) do
      if is_open(redis.call('HGET', job_key(job), 'state')) then finish(job, 'failed', reason) end
    end
  end
end

-- The work that has waited longest for a version that this worker has not ready; what it could not load comes last.
local waits = redis.call('ZRANGE', WAITS, 0, 9, 'WITHSCORES')
for i = 1, #waits, 2 do
  local version = waits[i]
  if not ready[version] then
    local why = request.refused[version]
    if why then refuse(version, why) end
    if not has_work(version) then
      redis.call('ZREM', WAITS, version)
      redis.call('HDEL', META, 'refused:' .. version)
    else
      if reply[1] == '' or not why then reply = {version, now - waits[i + 1]} end
      if not why then break end
    end
  end
end

local jobs = {} -- job id -> its fields, read once a call

local function load(id)
  if not jobs[id] then
    local f = redis.call('HMGET', job_key(id), 'state', 'lane', 'model_version', 'next', 'chunks', 'chunk_rows', 'started',
      'retrying')
    jobs[id] = {state = f[1], lane = f[2], version = f[3], next = tonumber(f[4]), chunks = tonumber(f[5]),
      chunk_rows = tonumber(f[6]), started = f[7], retrying = f[8], leased = 0, next_before = tonumber(f[4])}
  end
  return jobs[id]
end

-- Writes the lease; returns the chunk's rows, or nil when there is nothing to score in it.
local function lease(id, job, index)
  local payload = redis.call('HGET', job_key(id, 'inputs'), index)
  local text = redis.call('HGET', job_key(id, 'chunks'), index)
  local record = text and read_record(text)
  if not payload or not record or record.pending == 0 then return nil end
  local member = member_of(id, index)
  redis.call('ZADD', LEASES, now + request.lease_ms, member)
  redis.call('HSET', HOLDERS, member, request.token .. ' ' .. request.worker)
  job.leased = job.leased + record.pending
  local before = job.retrying and redis.call('HGET', job_key(id, 'results'), index) or ''
  local first_row = index * job.chunk_rows + 1
  for _, value in ipairs({id, index, job.version, first_row, record.pending, record.deaths, payload, before}) do
    reply[#reply + 1] = value
  end
  return record.pending
end

-- Chunks of one list that came back, oldest first.
local function claim_list(list, room, max_chunks)
  local rows, chunks = 0, 0
  for _ = 1, SWEEP_LIMIT do
    if chunks >= max_chunks or rows >= room then break end
    local member = redis.call('LPOP', list)
    if not member then break end
    local id, index = split_member(member)
    local job = load(id)
    local got = is_open(job.state) and lease(id, job, index)
    if got then rows, chunks = rows + got, chunks + 1 end
  end
  return rows, chunks
end

-- The first job's next chunk, then that job goes behind the others; all that a worker may take share the turns.
local function claim_ring(lane, room, max_chunks)
  if max_chunks < 1 or room < 1 then return end
  local queue, rows, chunks = {}, 0, 0
  for _, version in ipairs(request.versions) do
    local found = redis.call('ZRANGE', place('ring', lane, version), 0, max_chunks - 1, 'WITHSCORES')
    for i = 1, #found, 2 do queue[#queue + 1] = {id = found[i], turn = tonumber(found[i + 1]), version = version} end
  end
  table.sort(queue, function(a, b) return a.turn < b.turn end)
  local first = 1
  while queue[first] and chunks < max_chunks and rows < room do
    local entry = queue[first]
    local job = load(entry.id)
    first, entry.served = first + 1, true
    if is_open(job.state) and job.next < job.chunks then
      if not job.version then
        job.version, job.is_pinned = request.default, true -- one version per job, fixed by the first claim
        redis.call('ZREM', place('ring', lane, entry.version), entry.id)
        entry.version = job.version
        redis.call('ZADD', WAITS, 'NX', now, job.version)
      end
      local got = lease(entry.id, job, job.next)
      job.next = job.next + 1
      if got then rows, chunks = rows + got, chunks + 1 end
    end
    if is_open(job.state) and job.next < job.chunks then
      queue[#queue + 1] = entry
    else
      redis.call('ZREM', place('ring', lane, entry.version), entry.id)
    end
  end
  for i = first, #queue do
    if queue[i].served then
      redis.call('ZADD', place('ring', lane, queue[i].version), redis.call('HINCRBY', META, 'turn', 1), queue[i].id)
    end
  end
end

for _, wish in ipairs(request.lanes) do
  local lane, room, max_chunks = wish[1], wish[2], wish[3]
  local already = #reply
  local waiting = tonumber(redis.call('HGET', ROWS, lane .. ':waiting') or 0)
  local listeners = redis.call('ZCOUNT', P .. 'listeners:' .. lane, now - term, '+inf')
  -- An even share, so that a small job on many workers is spread; at least one chunk.
  room = math.min(room, math.max(1, math.ceil(waiting / math.max(1, listeners))))
  for _, version in ipairs(request.versions) do
    local rows, chunks = claim_list(place('front', lane, version), room, max_chunks)
    room, max_chunks = room - rows, max_chunks - chunks
  end
  claim_ring(lane, room, max_chunks)
  if #reply > already then redis.call('ZADD', P .. 'awake:' .. lane, now, request.worker) end
end

for id, job in pairs(jobs) do
  if job.leased > 0 then
    redis.call('HINCRBY', job_key(id), 'leased', job.leased)
    redis.call('HINCRBY', ROWS, job.lane .. ':waiting', -job.leased)
    if not job.started then redis.call('HSET', job_key(id), 'started', now) end
    if job.state == 'queued' then redis.call('HSET', job_key(id), 'state', 'running') end
    if job.is_pinned then redis.call('HSET', job_key(id), 'model_version', job.version) end
  end
  if job.next ~= job.next_before then redis.call('HSET', job_key(id), 'next', job.next) end
end
return reply
