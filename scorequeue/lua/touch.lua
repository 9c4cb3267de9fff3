-- touch: ARGV job. Its upload goes on, though nothing has come for a while: the queue is full. Returns the state.
allow_when_full()
local state = redis.call('HGET', job_key(ARGV[1]), 'state')
if not state then return no_job(ARGV[1]) end
if state ~= 'submitting' then return redis.error_reply('CLOSED ' .. state) end
extend_upload(ARGV[1])
return state
