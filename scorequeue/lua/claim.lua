-- claim: ARGV request (JSON: worker, token, lease_ms, groups, default, refused: {version: why}, suspects,
-- lanes: [[lane, room_rows, max_chunks], ...]).
-- Takes back what has run out, then leases chunks: lane by lane, what came back before what is new.
-- Returns {version that waits, ms it has waited, then job, index, version, first row, pending rows, deaths, payload, results
-- of before (of a chunk that is tried again) of each chunk}.
allow_when_full()
local request = cjson.decode(ARGV[1])
if not meta[2] then
  term = request.lease_ms
  redis.call('HSET', META, 'lease_ms', term)
end
stamp()
sweep()

local reply = {'', 0}
-- Its worker had no answer, and has given back what it does not know of; this is the call, late.
if redis.call('ZSCORE', VOIDED, request.token) then return reply end

local GIVE_UP_MS = 600 * 1000
local REFUSAL_MS = 400 * 1000 -- longer than supervisors wait before they start anew a worker that a version has ended

local ready, unrefused = {}, {}
for i, group in ipairs(request.groups) do
  ready[group], unrefused[i] = true, 'refused:' .. group
  redis.call('ZADD', WAITS, 'XX', now, group)
end
redis.call('HDEL', META, unpack(unrefused))

-- Jobs whose version no worker can load end as failed, after workers have tried for long enough.
local function give_up(group, why)
  local jobs = {}
  for _, lane in ipairs(LANES) do
    for _, job in ipairs(redis.call('ZRANGE', place('ring', lane, group), 0, SWEEP_LIMIT - 1)) do jobs[job] = true end
    for _, kind in ipairs({'front', 'suspect'}) do
      for _ = 1, SWEEP_LIMIT do
        local member = redis.call('LPOP', place(kind, lane, group))
        if not member then break end
        jobs[split_member(member)] = true
      end
    end
  end
  for job in pairs(jobs) do
    if is_open(redis.call('HGET', job_key(job), 'state')) then finish(job, 'failed', why) end
  end
end

-- "first last": how long workers have been trying it without a longer pause.
for version, why in pairs(request.refused) do
  if not ready[version] then
    local field = 'refused:' .. version
    local since, last = string.match(redis.call('HGET', META, field) or '', '^(%d+) (%d+)$')
    if not since or now - last > REFUSAL_MS then since = now end
    if now - since < GIVE_UP_MS then
      redis.call('HSET', META, field, since .. ' ' .. now)
    else
      redis.call('HDEL', META, field)
      give_up(version, 'workers could not load version ' .. version .. ': ' .. why)
    end
  end
end

-- Whether there is work in a group; members of jobs that have ended, at the head of its lists, leave.
local function has_work(group)
  for _, kind in ipairs({'front', 'suspect'}) do
    for _, lane in ipairs(LANES) do
      local list = place(kind, lane, group)
      for _ = 1, SWEEP_LIMIT do
        local member = redis.call('LINDEX', list, 0)
        if not member or is_open(redis.call('HGET', job_key((split_member(member))), 'state')) then break end
        redis.call('LPOP', list)
      end
    end
  end
  return redis.call('EXISTS', unpack(places_of(group))) > 0
end

-- The work that has waited longest for something that this worker has not ready; what it could not load comes last.
local waits = redis.call('ZRANGE', WAITS, 0, 9, 'WITHSCORES')
for i = 1, #waits, 2 do
  if not ready[waits[i]] then
    if not has_work(waits[i]) then
      redis.call('ZREM', WAITS, waits[i])
      redis.call('HDEL', META, 'refused:' .. waits[i])
    elseif not string.find(waits[i], '@') then -- bytes of a format that we cannot read are no version to load
      local is_refused = request.refused[waits[i]] ~= nil
      if reply[1] == '' or not is_refused then reply = {waits[i], now - waits[i + 1]} end
      if not is_refused then break end
    end
  end
end

local jobs = {} -- job id -> its fields, read once a call

local function load(id)
  if not jobs[id] then
    local f = redis.call('HMGET', job_key(id), 'state', 'lane', 'model_version', 'format', 'next', 'chunks', 'chunk_rows',
      'started', 'retrying')
    jobs[id] = {state = f[1], lane = f[2], version = f[3], format = f[4], next = tonumber(f[5]), chunks = tonumber(f[6]),
      chunk_rows = tonumber(f[7]), started = f[8], retrying = f[9], leased = 0, next_before = tonumber(f[5]),
      has_deaths = redis.call('EXISTS', job_key(id, 'deaths')) == 1}
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
  local deaths = job.has_deaths and redis.call('HGET', job_key(id, 'deaths'), index) or '0'
  local before = job.retrying and redis.call('HGET', job_key(id, 'results'), index) or ''
  local first_row = index * job.chunk_rows + 1
  for _, value in ipairs({id, index, job.version, first_row, record.pending, deaths, payload, before}) do
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

local WALK = 64
local WALKS = 8
-- Index of the job's next chunk that was not claimed; nil when that takes another call or there is none.
local function next_index(id, job)
  if not job.retrying then
    job.next = job.next + 1
    return job.next - 1
  end
  for _ = 1, WALKS do -- chunks whose rows were all scored before the retry are passed over
    local names = {}
    for index = job.next, math.min(job.next + WALK, job.chunks) - 1 do names[#names + 1] = index end
    if #names == 0 then return nil end
    for i, text in ipairs(redis.call('HMGET', job_key(id, 'chunks'), unpack(names))) do
      if text and read_record(text).pending > 0 then
        job.next = names[i] + 1
        return names[i]
      end
    end
    job.next = names[#names] + 1
  end
  return nil
end

-- The first job's next chunk, then that job goes behind the others; all that a worker may take share the turns.
local function claim_ring(lane, room, max_chunks)
  if max_chunks < 1 or room < 1 then return end
  local queue, rows, chunks = {}, 0, 0
  for _, group in ipairs(request.groups) do
    local found = redis.call('ZRANGE', place('ring', lane, group), 0, max_chunks - 1, 'WITHSCORES')
    for i = 1, #found, 2 do queue[#queue + 1] = {id = found[i], turn = tonumber(found[i + 1]), group = group} end
  end
  table.sort(queue, function(a, b) return a.turn < b.turn end)
  local first, left, paused = 1, {}, {}
  while queue[first] and chunks < max_chunks and rows < room do
    local entry = queue[first]
    local job = load(entry.id)
    first = first + 1
    entry.served = true
    local is_walked = true
    if is_open(job.state) and job.next < job.chunks then
      if not job.version then
        job.version = request.default -- one version per job, fixed by the first claim
        job.is_pinned = true
        redis.call('ZREM', place('ring', lane, entry.group), entry.id)
        entry.group = group_of(job.version, job.format)
        redis.call('ZADD', WAITS, 'NX', now, entry.group)
      end
      local index = next_index(entry.id, job)
      is_walked = index ~= nil
      local got = index and lease(entry.id, job, index)
      if got then rows, chunks = rows + got, chunks + 1 end
    end
    if is_open(job.state) and job.next < job.chunks then
      if is_walked then queue[#queue + 1] = entry else paused[#paused + 1] = entry end -- it walks on with the next call
    else
      left[#left + 1] = entry
    end
  end
  for _, entry in ipairs(paused) do queue[#queue + 1] = entry end
  for _, entry in ipairs(left) do redis.call('ZREM', place('ring', lane, entry.group), entry.id) end
  for i = first, #queue do
    if queue[i].served then
      redis.call('ZADD', place('ring', lane, queue[i].group), redis.call('HINCRBY', META, 'turn', 1), queue[i].id)
    end
  end
end

local suspects = request.suspects
for _, wish in ipairs(request.lanes) do
  local lane, room, max_chunks = wish[1], wish[2], wish[3]
  local already = #reply
  local waiting = tonumber(redis.call('HGET', ROWS, lane .. ':waiting') or 0)
  local listeners = redis.call('ZCOUNT', P .. 'listeners:' .. lane, now - term, '+inf')
  -- An even share, so that a small job on many workers is spread; at least one chunk.
  room = math.min(room, math.max(1, math.ceil(waiting / math.max(1, listeners))))
  for _, group in ipairs(request.groups) do
    if suspects > 0 then
      local _, taken = claim_list(place('suspect', lane, group), math.huge, suspects)
      suspects = suspects - taken
    end
    local rows, chunks = claim_list(place('front', lane, group), room, max_chunks)
    room, max_chunks = room - rows, max_chunks - chunks
  end
  claim_ring(lane, room, max_chunks)
  if #reply > already then
    redis.call('ZADD', P .. 'awake:' .. lane, now, request.worker)
  else
    redis.call('ZREM', P .. 'awake:' .. lane, request.worker)
  end
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
