-- void: ARGV tokens of claims that had no answer. What they leased goes back, and if one of them comes late it leases
-- nothing. Returns how many leases went back.
allow_when_full()
local unknown = {}
for _, token in ipairs(ARGV) do
  unknown[token] = true
  redis.call('ZADD', VOIDED, now, token)
end
local released, held = 0, redis.call('HGETALL', HOLDERS)
for i = 1, #held, 2 do
  if unknown[string.match(held[i + 1], '^%S+')] then
    take_back(held[i], false)
    released = released + 1
  end
end
return released
