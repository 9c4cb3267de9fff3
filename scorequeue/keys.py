"""Every Redis key of a namespace, in one place.

All names begin with ``{<namespace>}:``; the braces are Redis's hash tag, so that a script may touch all of them in one
slot. ``MEMBER`` is ``<job id>:<chunk index>``, ``LANE`` is ``express`` or ``bulk``, ``VERSION`` is the checkpoint
version that work needs, empty for jobs that no claim has pinned to one yet. Times are in milliseconds of Redis's clock.

For the namespace:

    meta                hash    facts of the namespace (below)
    jobs                zset    job ids by creation time
    endings             zset    ended jobs by the time their results expire
    deadlines           zset    open jobs by the time they expire: their deadline, or an hour after the last upload
    deleted             zset    ids of jobs deleted in the last hour, by when
    lane:LANE           zset    MEMBERs pending or leased by arrival time; its size is the signal to scale by
    ring:LANE:VERSION   zset    jobs with chunks that were never claimed, by turn: the lowest one is next
    front:LANE:VERSION  list    MEMBERs that came back; they go before the ring
    waits               zset    VERSIONs with work, by the last time that a worker asked who had it ready
    rows                hash    LANE:backlog rows pending or leased; LANE:waiting rows not leased
    leases              zset    leased MEMBERs by expiry
    holders             hash    MEMBER -> "token worker-id" of its lease
    voided              zset    tokens of claims whose answer was lost, by when they were given up
    closed              list    "job lane chunks" of jobs that ended early, whose members have yet to leave lane:LANE
    listeners:LANE      zset    worker ids by last sign of life
    awake:LANE          zset    worker ids whose last claim in the lane brought something, by when: they need no wake-up
    workers             hash    worker id -> what it says of itself (JSON)
    scratch             -       never exists; deleting it first lets a script go on in a full Redis

For a job (five at most, however many chunks):

    job:ID            hash    state, options, counters, times (below)
    job:ID:inputs     hash    chunk index -> encoded chunk; after its commit only the texts that a retry would need
    job:ID:chunks     hash    chunk index -> "rows digest pending scored failed truncated kept deaths token";
                              deaths: how often its lease expired
    job:ID:results    hash    chunk index -> encoded results
    key:DIGEST        string  job id of an idempotency key

Fields of ``meta``:

    protocol          number of the layout of these keys; whoever knows another one stays away
    name              made at random with the ledger, so that an emptied Redis shows
    lease_ms          the longest lease that a live worker takes: the term
    stamp             time of the last claim, renewal or sweep
    turn              last number given to a job in a ring
    expired           leases taken back because they ran out, so far
    refused:VERSION   since when workers fail to load it; while work waits for it
    synced            time of the last write that was made to wait for the disk behind it

Fields of ``job:ID``; those that not every job has say when they are there:

    state             submitting, queued, running, completed, cancelled, expired or failed
    lane              express or bulk
    source            names of the inputs (JSON list)
    metadata          the caller's own labels (JSON object)
    reader_options    how the input is read (JSON object); a resumed upload must agree
    chunk_rows        rows of every chunk but the last
    ttl               milliseconds that results are kept after the end
    asked_version     the version that was asked for; if one was
    model_version     the version that scores it; from the first claim on, or as asked for
    idempotency_key   as the caller gave it; if given
    key               the DIGEST of key:DIGEST; if a key was given
    total             rows that have arrived; pending are those that are not in the next three
    scored            rows with scores
    failed            rows that failed, faulty ones included
    cancelled         rows that were dropped when the job ended early
    truncated         rows among the scored ones that were longer than the model reads
    leased            rows of the chunks that are leased just now
    chunks            chunks that have arrived
    done              chunks without a pending row
    next              index of the first chunk that was never claimed
    digest            over the digests of all chunks so far (``records.fold_digest``)
    created           time of the open
    sealed            time of the seal; once all has arrived
    started           time of the first claim; from then on
    finished          time of the end; while it has ended, a retry takes it away
    expires           time at which the results expire; while it has ended
    deadline          time at which it expires if it has not ended; if given, until a retry
    error             why it expired or failed; if it did
    retrying          1 while a retry runs
    retry_token       token of the last retry, so that the same call again changes nothing; after one
    retried           rows that the last retry made pending; after one
    discarded         chunks that had results when these were discarded; after it

Celery's own keys begin with ``{<namespace>}:celery:``; its lists ``express`` and ``bulk`` hold the wake-ups. The
channel ``{<namespace>}:ended:ID`` carries one message when a job ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

PROTOCOL = 3
"""Raised when an older program could not live in the same namespace, or could not read the bytes of its chunks.

1 knew no retries, 2 kept suspect chunks apart and had Lua write Celery's messages.
"""


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names of one namespace."""

    namespace: str

    @property
    def prefix(self) -> str:
        """What every key begins with; scripts get it as their only declared key."""
        return f"{{{self.namespace}}}:"

    @property
    def celery_prefix(self) -> str:
        """What Celery's own keys begin with."""
        return f"{self.prefix}celery:"

    @property
    def meta(self) -> str:
        """Hash of the namespace's own facts."""
        return f"{self.prefix}meta"

    @property
    def jobs(self) -> str:
        """Zset of job ids by creation time."""
        return f"{self.prefix}jobs"

    @property
    def deleted(self) -> str:
        """Zset of the ids of jobs that were deleted a short while ago."""
        return f"{self.prefix}deleted"

    @property
    def rows(self) -> str:
        """Hash of row counts per lane."""
        return f"{self.prefix}rows"

    @property
    def workers(self) -> str:
        """Hash of what workers say of themselves."""
        return f"{self.prefix}workers"

    @property
    def leases(self) -> str:
        """Zset of the leased chunks by when their leases run out."""
        return f"{self.prefix}leases"

    def lane(self, lane: str) -> str:
        """Zset of a lane's pending and leased chunks by arrival time."""
        return f"{self.prefix}lane:{lane}"

    def listeners(self, lane: str) -> str:
        """Zset of the workers that listen on a lane, by last sign of life."""
        return f"{self.prefix}listeners:{lane}"

    def wake_ups(self, lane: str) -> str:
        """Celery's list of a lane's waiting wake-ups."""
        return f"{self.celery_prefix}{lane}"

    def work(self, version: str) -> list[str]:
        """Where chunks that need a version wait, in all lanes: what was never claimed, and what came back."""
        return [f"{self.prefix}{kind}:{lane}:{version}" for kind in ("ring", "front") for lane in ("express", "bulk")]

    def job(self, job_id: str) -> str:
        """Hash of a job's state, options, counters and times."""
        return f"{self.prefix}job:{job_id}"

    def chunks(self, job_id: str) -> str:
        """Hash of a job's chunk records."""
        return f"{self.prefix}job:{job_id}:chunks"

    def inputs(self, job_id: str) -> str:
        """Hash of a job's encoded chunks that are not committed yet, and of the texts that a retry would need."""
        return f"{self.prefix}job:{job_id}:inputs"

    def results(self, job_id: str) -> str:
        """Hash of a job's encoded results."""
        return f"{self.prefix}job:{job_id}:results"

    def idempotency(self, key: str) -> str:
        """Name of the string that leads from an idempotency key to its job; keys of any length fit."""
        return f"{self.prefix}key:{blake2b(key.encode(), digest_size=16).hexdigest()}"

    def ended_channel(self, job_id: str) -> str:
        """Channel that carries one message when the job ends."""
        return f"{self.prefix}ended:{job_id}"
