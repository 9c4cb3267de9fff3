-- sync: one small write, so that whoever waits for the disk on this connection waits for all that was written before.
allow_when_full()
if meta[1] then redis.call('HSET', META, 'synced', now) end
