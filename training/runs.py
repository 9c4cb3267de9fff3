"""A fit's folder below ``runs/``: what the run is, how far it came, and which one to resume.

The states of a run, as ``run.json`` and the checkpoints say::

    started     it has a record and loggers' files; killed here, it is to be started anew
    resumable   checkpoints/resume.ckpt is there: training goes on from it
    trained     the record names the best epoch's weights: only publishing is left
    published   the record names the version; there is nothing to resume

While a process works on a run it holds a mark in its folder (scorequeue/marks.py), as hosts may share ``runs/``. What a
killed one leaves is taken over: at once on the same host, elsewhere when it was not touched for 40 s.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from scorequeue.errors import InputError, InternalError, MarkHeldError, UsageError
from scorequeue.folders import replace_synced, write_synced
from scorequeue.marks import Mark, read_holder

RECORD_FILE = "run.json"
CHECKPOINTS = "checkpoints"
RESUME_FILE = "resume.ckpt"
MARK_FILE = ".fitting"

STALE_S = 40.0
"""Seconds without a sign of life after which a fit counts as killed. Less than three quarters of a refresh's: when that
is taken over, its fit can be gone on with."""

LAST = "last"
"""Stands for the newest run that can be resumed."""

ELSEWHERE = frozenset({"registry", "runs", "fast_dev_run", "checkpoint_every_s"})
"""Settings that do not change what is trained; a resumed fit may have others."""


class RunRecord(BaseModel):
    """What a run is, and how far it came.

    Attributes:
        id: Random; the published version names it.
        started_at: When the run began, in UTC.
        settings: The checked settings, without those of `ELSEWHERE`.
        fingerprint: Of the dataset.
        precision: What is computed in.
        devices: How many processes train.
        parent: The version that it was warm-started from.
        tracking: What the logger needs to go on with the same run.
        best: Name of the best epoch's weights, once training has ended.
        version: What was published.
    """

    model_config = ConfigDict(frozen=True)

    id: str = Field(default_factory=lambda: secrets.token_hex(8))
    started_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    settings: dict[str, Any]
    fingerprint: str
    precision: str
    devices: int = 1
    parent: str | None = None
    tracking: dict[str, Any] = Field(default_factory=dict)
    best: str | None = None
    version: str | None = None


class Run:
    """One run's folder.

    Args:
        folder: A folder with a record.

    Raises:
        InputError: It has none that can be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_new = False
        self.checkpoints = folder / CHECKPOINTS
        self.resume_file = self.checkpoints / RESUME_FILE
        self._mark: Mark | None = None
        self._read()

    @classmethod
    def start(cls, runs: Path, *, name: str, record: RunRecord) -> Run:
        """Make a run's folder, named by time and ``name``, and hold its mark.

        Raises:
            InternalError: It cannot be written.
        """
        stem = f"{record.started_at.strftime('%Y%m%dT%H%M%S')}-{name}"
        try:
            runs.mkdir(parents=True, exist_ok=True)
            folder = runs / stem
            while True:
                try:
                    folder.mkdir()
                    break
                except FileExistsError:
                    folder = runs / f"{stem}-{secrets.token_hex(2)}"
            write_synced(folder / RECORD_FILE, record.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise InternalError(
                f"cannot write a run's folder to {runs}: {error.strerror}; make room, or name another --runs"
            ) from error
        run = cls(folder)
        run.is_new = True
        run.take()
        return run

    @property
    def is_resumable(self) -> bool:
        """Whether there is something left to do and something to begin with."""
        return self.record.version is None and (self.record.best is not None or self.resume_file.exists())

    def take(self) -> None:
        """Hold the run's mark until it is left; nobody is waited for.

        Raises:
            UsageError: Another process works on the run, or one that was killed on another host seems to.
            InternalError: The folder cannot be written.
        """
        mark = Mark(self.folder / MARK_FILE, stale_s=STALE_S)
        try:
            mark.__enter__()
        except MarkHeldError as error:
            holder = read_holder(mark.path) or "which has just ended"
            raise UsageError(
                f"{self.folder} is being fitted by another process ({holder}); wait for it to end, or {STALE_S:g} s "
                "if it was killed"
            ) from error
        except OSError as error:
            raise InternalError(f"cannot write to {self.folder}: {error.strerror}; make room there") from error
        self._mark = mark
        self._read()  # whoever held it may have come further

    def check_held(self) -> None:
        """Refuse to write on if this process held the run and has lost it.

        Raises:
            UsageError: It was stopped for so long that another process has taken over.
        """
        if self._mark is not None and not self._mark.is_held():
            raise UsageError(
                f"{self.folder} was taken over by another process while this one was stopped; that one goes on with it"
            )

    def is_taken(self) -> bool:
        """Whether another process works on the run."""
        try:
            self.take()
        except UsageError:
            return True
        self.leave()
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Give the mark back."""
        if self._mark is not None:
            self._mark.__exit__(None, None, None)
            self._mark = None

    def update(self, **changes: Any) -> None:
        """Change the record; it is on the disk when this returns."""
        record = self.record.model_copy(update=changes)
        try:
            replace_synced(self.folder / RECORD_FILE, record.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise InternalError(f"cannot write {self.folder / RECORD_FILE}: {error.strerror}; make room") from error
        self.record = record

    def finish(self, version: str) -> None:
        """Note what was published; there is nothing to resume from then on."""
        self.update(version=version)
        self.resume_file.unlink(missing_ok=True)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse to go on with other settings than the run's: the result would be neither's.

        Args:
            settings: Plain values by name: all of them, or those that the user gave.

        Raises:
            UsageError: Names the first difference.
        """
        for name, value in describe_settings(settings).items():
            if value != (own := self.record.settings.get(name)):
                option = "--" + name.replace("_", "-")
                raise UsageError(
                    f"{option} is {_show(value)}, but {self.folder} was started with {_show(own)}; "
                    f"leave {option} away to go on, or start anew without --resume"
                )

    def describe_continuation(self) -> str:
        """How to go on after an interrupt."""
        if self.resume_file.exists():
            return f"go on with: training fit --resume {self.folder}"
        return "there was no checkpoint yet, so start it anew"

    def _read(self) -> None:
        file = self.folder / RECORD_FILE
        try:
            self.record = RunRecord.model_validate_json(file.read_bytes())
        except FileNotFoundError as error:
            raise InputError(f"{self.folder} is no run: it has no {RECORD_FILE}") from error
        except (OSError, ValidationError) as error:
            raise InputError(f"{file} cannot be read; start the fit anew without --resume") from error


def find(which: str, *, runs: Path) -> Run:
    """The run to resume.

    Args:
        which: ``last``, a run's folder, or a checkpoint in it.
        runs: Where ``last`` is looked for.

    Raises:
        UsageError: There is nothing to resume; the message says why.
    """
    if which == LAST:
        return _find_last(runs)
    path = Path(which)
    if not path.exists():
        raise UsageError(f"--resume {which}: there is no such folder; expected last, or a run's folder below {runs}")
    run = Run(path if path.is_dir() else path.parent.parent)
    if not path.is_dir() and path.name != RESUME_FILE:
        raise UsageError(f"--resume {which}: only {RESUME_FILE} can be resumed from; give the run's folder")
    if run.record.version is not None:
        raise UsageError(f"{run.folder} was published as {run.record.version}; there is nothing to resume")
    if not run.is_resumable:
        raise UsageError(f"{run.folder} has no checkpoint yet; there is nothing to resume, start it anew")
    return run


def find_alike(settings: Mapping[str, Any], *, parent: str | None, runs: Path) -> Iterator[Run]:
    """Runs with the same settings and start, the newest first; without those that are at work. Their data may differ.

    Args:
        settings: Plain values by name.
        parent: The version to start from, where it is not the base model.
        runs: Where to look.
    """
    wanted = describe_settings(settings)
    for folder in _newest_first(runs):
        try:
            run = Run(folder)
        except InputError:  # another program's, or damaged: nothing to go on with
            continue
        if (run.record.settings, run.record.parent) == (wanted, parent) and not run.is_taken():
            yield run


def _newest_first(runs: Path) -> list[Path]:
    return sorted((file.parent for file in runs.glob(f"*/{RECORD_FILE}")), reverse=True)


def _find_last(runs: Path) -> Run:
    others = ""
    for folder in _newest_first(runs):
        try:
            run = Run(folder)
            if not run.is_resumable:
                continue
            run.take()
        except UsageError as error:  # at work, or its record cannot be read; an older one may do
            others += f" ({error})"
        else:
            run.leave()
            return run
    raise UsageError(
        f"there is nothing to resume in {runs}: no run has a checkpoint and did not finish{others}; "
        "start one with training fit, or name another --runs"
    )


def describe_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that say what is trained."""
    return {name: value for name, value in settings.items() if name not in ELSEWHERE}


def _show(value: Any) -> str:
    return "nothing" if value is None else str(value)
