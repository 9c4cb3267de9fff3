-- release: ARGV job, index, token of each lease that its worker gives back unscored. Returns how many were its own.
-- Backwards, because each goes to the front of its lane: the first one named is the first to be claimed again.
allow_when_full()
local released = 0
for i = #ARGV - 2, 1, -3 do
  local member = member_of(ARGV[i], ARGV[i + 1])
  if is_held(member, ARGV[i + 2]) then
    take_back(member, false)
    released = released + 1
  end
end
return released
