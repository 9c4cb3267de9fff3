-- depart: ARGV worker, lanes. A worker that leaves in order is no longer counted among the live ones.
allow_when_full()
redis.call('HDEL', P .. 'workers', ARGV[1])
for i = 2, #ARGV do
  redis.call('ZREM', P .. 'listeners:' .. ARGV[i], ARGV[1])
  redis.call('ZREM', P .. 'awake:' .. ARGV[i], ARGV[1])
end
