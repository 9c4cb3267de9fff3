"""The verbs of a worker: ask for work, claim chunks, renew their leases, commit or release them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from scorequeue.inquiries import Inquiries
from scorequeue.jobs import Lane
from scorequeue.records import Claim, Commit, LaneRoom, Lease, read_leased
from scorequeue.scripts import Arg, Script

_POLL, _CLAIM, _RENEW, _COMMIT = Script("poll"), Script("claim"), Script("renew"), Script("commit")
_RELEASE, _VOID, _DEPART = Script("release"), Script("void"), Script("depart")

LEASES_AT_ONCE = 1_000
"""Most leases that one script renews or gives back: it takes 8 to 20 ms, in which Redis answers nobody else."""

_PARTS = 8
"""Values of each chunk in what ``claim`` answers."""


class Renewal(NamedTuple):
    """What a renewal brought: leases that are no longer the worker's, and the name of the ledger that said so.

    The name is made at random with the ledger: another one than before means that Redis was emptied or replaced.
    """

    lost: set[Lease]
    ledger_name: str


class LeaseVerbs(Inquiries):
    """What a worker does."""

    def poll(self, lanes: Sequence[Lane], *, versions: Iterable[str]) -> set[Lane]:
        """Return the lanes in which a claim would do something. Only reads, in one command; not repeated.

        Args:
            lanes: Lanes to look at.
            versions: Versions that are ready; another one that work waits for is a reason to claim too.

        Raises:
            RedisUnavailableError: No answer.
        """
        request = {"lanes": lanes, "versions": ["", *versions]}
        return {Lane(lane.decode()) for lane in self._scripts.run_once(_POLL, [json.dumps(request)])}

    def claim(
        self,
        worker_id: str,
        lanes: Sequence[LaneRoom],
        *,
        versions: Iterable[str],
        default_version: str,
        refused: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> Claim:
        """Take back what has run out, then lease chunks: the lanes in the order given, each within its room.

        Args:
            worker_id: Who claims.
            lanes: What fits.
            versions: Versions that are ready; jobs pinned to another one stay where they are.
            default_version: Pinned to jobs that have no version yet.
            refused: Versions that this worker tried and could not load, and why.
            token: What the leases are shown by; made anew for every call. None makes one here.

        Raises:
            RedisUnavailableError: No answer. It is not asked again, because a second claim would lease other chunks:
                ``void`` its token when Redis answers.
        """
        token = token or new_token()
        request = {
            "worker": worker_id,
            "token": token,
            "lease_ms": self.lease_ms,
            "versions": ["", *versions],
            "default": default_version,
            "refused": dict(refused or {}),
            "lanes": lanes,
        }
        answer = self._scripts.run_once(_CLAIM, [json.dumps(request)])
        return Claim(
            chunks=[read_leased(part, token=token) for part in zip(*[iter(answer[2:])] * _PARTS, strict=True)],
            waiting_version=answer[0].decode() or None,
            waited_s=int(answer[1]) / 1000,
        )

    def void(self, tokens: Sequence[str]) -> int:
        """Give back what claims without an answer have leased, or would when they arrive. Returns how many leases."""
        return int(self._scripts.run(_VOID, list(tokens))) if tokens else 0

    def renew(
        self,
        worker_id: str,
        about: dict[str, Any],
        lanes: Sequence[Lane],
        leases: Sequence[Lease],
        *,
        is_first: bool = False,
    ) -> Renewal:
        """Give a sign of life, and renew leases.

        Args:
            worker_id: Who gives it.
            about: What the worker says of itself.
            lanes: Lanes that it listens on.
            leases: What it holds.
            is_first: Whether the worker has just come; alone, it then sets the term for everybody.
        """
        args: list[Arg] = [worker_id, json.dumps(about), self.lease_ms, int(is_first), secrets.token_hex(8)]
        lost: set[Lease] = set()
        ledger_name = ""
        for part in _slices(leases) or [[]]:
            answer = self._scripts.run_once(_RENEW, [*args, len(lanes), *lanes, *_lease_args(part)])
            ledger_name = answer[0].decode()
            for job, chunk, token in zip(*[iter(answer[1:])] * 3, strict=True):
                lost.add(Lease(job.decode(), int(chunk), token.decode()))
        return Renewal(lost=lost, ledger_name=ledger_name)

    def commit(self, commits: Sequence[Commit]) -> list[str]:
        """Write the results of scored chunks, several in one round trip.

        Returns:
            What became of each: ``done``, ``already`` (this very commit came twice), ``lost`` (the lease is somebody
            else's by now), ``closed`` (the job ended early), ``gone`` (the ledger knows no such job) or ``refused:
            ...`` (it does not fit the chunk).
        """
        answers = self._scripts.run_many(
            [(_COMMIT, [*c.lease, c.scored, c.failed, c.truncated, c.payload, c.kept, c.kept_texts]) for c in commits]
        )
        return [f"refused: {answer}" if isinstance(answer, ResponseError) else answer.decode() for answer in answers]

    def release(self, leases: Sequence[Lease]) -> int:
        """Give chunks back unscored, to the front of their lanes. Returns how many leases were still held."""
        # The last ones first: each goes to the front of its lane.
        return sum(int(self._scripts.run(_RELEASE, _lease_args(part))) for part in reversed(_slices(leases)))

    def depart(self, worker_id: str, lanes: Sequence[Lane]) -> None:
        """Leave in order: no longer counted among the live workers."""
        self._scripts.run_once(_DEPART, [worker_id, *lanes])


def new_token() -> str:
    """Return a random token for a claim."""
    return secrets.token_hex(8)


def _slices(leases: Sequence[Lease]) -> list[Sequence[Lease]]:
    return [leases[start : start + LEASES_AT_ONCE] for start in range(0, len(leases), LEASES_AT_ONCE)]


def _lease_args(leases: Iterable[Lease]) -> list[Arg]:
    return [part for lease in leases for part in lease]
