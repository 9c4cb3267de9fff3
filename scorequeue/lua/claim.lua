-- claim: ARGV request (JSON: worker, token, lease_ms, versions, default, lanes: [[lane, room_rows, max_chunks], ...]).
-- Takes back what has run out, then leases chunks: lane by lane, what came back before what is new.
-- Returns {version that waits, ms it has waited, then job, index, version, deaths, payload of each chunk}.
allow_when_full()
local request = cjson.decode(ARGV[1])
local ready = {}
for _, version in ipairs(request.versions) do ready[version] = true end
stamp(request.lease_ms)
sweep()

local reply = {'', 0}
local jobs = {} -- job id -> its fields, read once a call

local function load(job)
  if not jobs[job] then
    local f = redis.call('HMGET', job_key(job), 'state', 'model_version', 'next', 'chunks', 'unserved', 'started')
    jobs[job] = {state = f[1], version = f[2], next = tonumber(f[3]), chunks = tonumber(f[4]), unserved = f[5], started = f[6]}
  end
  return jobs[job]
end

-- Whether a ready version may score the job; notes since when it has waited if none may.
local function is_servable(id, job)
  if not job.version or ready[job.version] then return true end
  if not job.unserved then
    job.unserved = now
    redis.call('HSET', job_key(id), 'unserved', now)
  end
  local waited = now - job.unserved
  if reply[1] == '' or waited > reply[2] then reply[1], reply[2] = job.version, waited end
  return false
end

-- Writes the lease; returns the chunk's rows, or nil when its input is gone.
local function lease(id, job, lane, index)
  local payload = redis.call('HGET', job_key(id, 'inputs'), index)
  local record = redis.call('HGET', job_key(id, 'chunks'), index)
  if not payload or not record then return nil end
  local rows = record_rows(record)
  if not job.version then
    job.version = request.default -- one version per job, fixed by the first claim
    redis.call('HSET', job_key(id), 'model_version', job.version)
  end
  if not job.started then
    job.started = now
    redis.call('HSET', job_key(id), 'started', now)
    if job.state == 'queued' then redis.call('HSET', job_key(id), 'state', 'running') end
  end
  if job.unserved then
    job.unserved = nil
    redis.call('HDEL', job_key(id), 'unserved')
  end
  local member = member_of(id, index)
  redis.call('ZADD', LEASES, now + request.lease_ms, member)
  redis.call('HSET', HOLDERS, member, request.token .. ' ' .. request.worker)
  redis.call('HINCRBY', job_key(id), 'leased', rows)
  redis.call('HINCRBY', ROWS, lane .. ':waiting', -rows)
  local deaths = redis.call('HGET', job_key(id, 'suspects'), index) or 0
  for _, value in ipairs({id, index, job.version, deaths, payload}) do reply[#reply + 1] = value end
  return rows
end

-- Chunks that came back, oldest first; those whose version is not ready keep their place.
local function claim_front(lane, room, max_chunks)
  local front, kept = P .. 'front:' .. lane, {}
  local rows, chunks = 0, 0
  while chunks < max_chunks and rows < room and #kept < SWEEP_LIMIT do
    local member = redis.call('LPOP', front)
    if not member then break end
    local id, index = split_member(member)
    local job = load(id)
    if is_open(job.state) then
      if is_servable(id, job) then
        local got = lease(id, job, lane, index)
        if got then rows, chunks = rows + got, chunks + 1 end
      else
        kept[#kept + 1] = member
      end
    end
  end
  for i = #kept, 1, -1 do redis.call('LPUSH', front, kept[i]) end
  return rows, chunks
end

-- The first job's next chunk, then that job goes behind the others.
local function claim_ring(lane, room, max_chunks)
  local ring = P .. 'ring:' .. lane
  local rows, chunks, unserved = 0, 0, 0
  local size = redis.call('LLEN', ring)
  while chunks < max_chunks and rows < room and unserved < size do
    local id = redis.call('LINDEX', ring, 0)
    if not id then break end
    local job = load(id)
    if is_open(job.state) and not is_servable(id, job) then
      unserved = unserved + 1
      redis.call('LMOVE', ring, ring, 'LEFT', 'RIGHT')
    else
      if is_open(job.state) and job.next < job.chunks then
        local got = lease(id, job, lane, job.next)
        job.next = job.next + 1
        redis.call('HSET', job_key(id), 'next', job.next)
        if got then rows, chunks, unserved = rows + got, chunks + 1, 0 end
      end
      if is_open(job.state) and job.next < job.chunks then
        redis.call('LMOVE', ring, ring, 'LEFT', 'RIGHT')
      else
        redis.call('LPOP', ring)
        size = size - 1
        if job.state then redis.call('HSET', job_key(id), 'in_ring', 0) end
      end
    end
  end
end

for _, wish in ipairs(request.lanes) do
  local lane, room, max_chunks = wish[1], wish[2], wish[3]
  local waiting = tonumber(redis.call('HGET', ROWS, lane .. ':waiting') or 0)
  local listeners = redis.call('ZCOUNT', P .. 'listeners:' .. lane, now - request.lease_ms, '+inf')
  -- An even share, so that a small job on many workers is spread; at least one chunk.
  room = math.min(room, math.max(1, math.ceil(waiting / math.max(1, listeners))))
  local rows, chunks = claim_front(lane, room, max_chunks)
  claim_ring(lane, room - rows, max_chunks - chunks)
end
return reply
