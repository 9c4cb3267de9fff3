-- renew: ARGV worker, what it says of itself (JSON), lease_ms, number of lanes, lanes, then job, index, token of each lease.
-- The worker's sign of life. Returns {job, index, token} of each lease that is no longer its own.
allow_when_full()
local lease_ms, lanes = tonumber(ARGV[3]), tonumber(ARGV[4])
stamp(lease_ms)
redis.call('HSET', P .. 'workers', ARGV[1], ARGV[2])
for i = 5, 4 + lanes do
  local listeners = P .. 'listeners:' .. ARGV[i]
  redis.call('ZADD', listeners, now, ARGV[1])
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', listeners, '-inf', now - FORGET_WORKER_MS)) do
    redis.call('ZREM', listeners, dead)
    redis.call('HDEL', P .. 'workers', dead)
  end
end

local lost = {}
for i = 5 + lanes, #ARGV, 3 do
  local member = member_of(ARGV[i], ARGV[i + 1])
  local holder = redis.call('HGET', HOLDERS, member)
  if holder and string.match(holder, '^%S+') == ARGV[i + 2] and is_open(redis.call('HGET', job_key(ARGV[i]), 'state')) then
    redis.call('ZADD', LEASES, now + lease_ms, member)
  else
    lost[#lost + 1] = ARGV[i]
    lost[#lost + 1] = ARGV[i + 1]
    lost[#lost + 1] = ARGV[i + 2]
  end
end
return lost
