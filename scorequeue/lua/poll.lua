-- poll: ARGV request (JSON: lanes, versions), as claim's. Returns the lanes in which a claim would do something.
-- Writes nothing: idle workers ask this all the time.
local request = cjson.decode(ARGV[1])
local ready, found = {}, {}
for _, version in ipairs(request.versions) do ready[version] = true end
for _, lane in ipairs(request.lanes) do
  local waiting = 0
  for version in pairs(ready) do waiting = waiting + redis.call('EXISTS', place('front', lane, version), place('ring', lane, version)) end
  if waiting > 0 then found[#found + 1] = lane end
end
if #found > 0 then return found end

-- What any claim takes care of: something has run out, members of ended jobs must leave, a version must be loaded.
local is_due = redis.call('EXISTS', CLOSED) == 1
for _, key in ipairs({LEASES, DEADLINES, ENDINGS}) do
  is_due = is_due or #redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, 1) > 0
end
for _, version in ipairs(redis.call('ZRANGE', WAITS, 0, 9)) do is_due = is_due or not ready[version] end
return is_due and {request.lanes[1]} or {}
