-- cancel: ARGV job. Returns the state: what is done stays, the rest counts as cancelled. A job that has ended stays as it is.
allow_when_full()
local state = redis.call('HGET', job_key(ARGV[1]), 'state')
if not state then return no_job(ARGV[1]) end
if not is_open(state) then return state end
finish(ARGV[1], 'cancelled')
return 'cancelled'
