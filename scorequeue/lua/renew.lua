-- renew: ARGV worker, what it says of itself (JSON), lease_ms, 1 if this is its first, name of this ledger if it has none,
-- number of lanes, lanes, then job, index, token of each lease. The worker's sign of life.
-- Returns {name of this ledger, then job, index, token of each lease that is no longer its own}.
allow_when_full()
local worker, lease_ms, lanes = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[6])
redis.call('HSETNX', META, 'protocol', PROTOCOL)
redis.call('HSETNX', META, 'name', ARGV[5])

local others = 0
if ARGV[4] == '1' then
  for _, lane in ipairs(LANES) do others = others + redis.call('ZCOUNT', P .. 'listeners:' .. lane, now - term, '+inf') end
end
-- The term is the longest lease among live workers: the first one sets it, another can only make it longer.
if lease_ms > term or not meta[2] or (ARGV[4] == '1' and others == 0) then
  term = lease_ms
  redis.call('HSET', META, 'lease_ms', term)
end
stamp()
if redis.call('HGET', P .. 'workers', worker) ~= ARGV[2] then redis.call('HSET', P .. 'workers', worker, ARGV[2]) end
for i = 7, 6 + lanes do
  local listeners = P .. 'listeners:' .. ARGV[i]
  redis.call('ZADD', listeners, now, worker)
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', listeners, '-inf', now - FORGET_MS)) do
    redis.call('ZREM', listeners, dead)
    redis.call('ZREM', P .. 'awake:' .. ARGV[i], dead)
    redis.call('HDEL', P .. 'workers', dead)
  end
end

local reply = {redis.call('HGET', META, 'name')}
for i = 7 + lanes, #ARGV, 3 do
  local member = member_of(ARGV[i], ARGV[i + 1])
  if is_held(member, ARGV[i + 2]) and is_open(redis.call('HGET', job_key(ARGV[i]), 'state')) then
    redis.call('ZADD', LEASES, now + lease_ms, member)
  else
    for j = i, i + 2 do reply[#reply + 1] = ARGV[j] end
  end
end
return reply
