-- note: ARGV worker, then job, index, token, row: the one row that this worker runs now; without them it runs none alone.
-- Returns 1, or 0 when the lease is no longer its own.
allow_when_full()
if #ARGV == 1 then
  redis.call('HDEL', NOTED, ARGV[1])
  return 1
end
local member = member_of(ARGV[2], ARGV[3])
local holder = redis.call('HGET', HOLDERS, member)
if not holder or string.match(holder, '^%S+') ~= ARGV[4] then return 0 end
if not is_open(redis.call('HGET', job_key(ARGV[2]), 'state')) then return 0 end
redis.call('HSET', NOTED, ARGV[1], member .. ' ' .. ARGV[5])
return 1
