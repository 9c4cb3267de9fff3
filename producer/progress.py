"""What a person sees on stderr while rows go up and scores come: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from producer.inputs import Inputs
from producer.upload import OnUpload, UploadProgress
from scorequeue.jobs import JobStatus

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY_S = 5.0
"""Plain lines come this often at most; the last one always comes."""

OnStatus = Callable[[JobStatus], None]


class Narrator:
    """Tells how far an upload and a job are.

    Args:
        quiet: Whether to say nothing at all.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.is_quiet = quiet
        self._has_bars = not quiet and sys.stderr.isatty()

    def note(self, line: str) -> None:
        """Say a line."""
        if not self.is_quiet:
            print(line, file=sys.stderr, flush=True)

    @contextmanager
    def upload(self, inputs: Inputs) -> Iterator[OnUpload]:
        """Show an upload; its share is that of the bytes read, for nobody has counted the rows yet."""
        with _upload_bar(inputs) if self._has_bars else self._upload_lines() as on_upload:
            yield on_upload

    @contextmanager
    def scoring(self) -> Iterator[OnStatus]:
        """Show how far a job is."""
        with _scoring_bar() if self._has_bars else self._scoring_lines() as on_status:
            yield on_status

    @contextmanager
    def _upload_lines(self) -> Iterator[OnUpload]:
        lines = _Lines(self)
        started = time.monotonic()
        last = UploadProgress(0, None)

        def on_upload(state: UploadProgress) -> None:
            nonlocal last
            last = state
            waiting = f"; waiting: {state.waiting_for}" if state.waiting_for else ""
            lines.say(lambda: _uploaded(state, started) + waiting)

        yield on_upload
        self.note(_uploaded(last, started))

    @contextmanager
    def _scoring_lines(self) -> Iterator[OnStatus]:
        lines = _Lines(self)

        def on_status(status: JobStatus) -> None:
            lines.say(lambda: _line(status), is_last=status.state.is_final)

        yield on_status


@contextmanager
def _upload_bar(inputs: Inputs) -> Iterator[OnUpload]:
    with _bars() as progress:
        size = inputs.size
        task = progress.add_task("upload", total=size, rows="", note="")
        started = time.monotonic()

        def on_upload(state: UploadProgress) -> None:
            rows = f"{state.rows:,} rows, {_rate(state, started)}/s"
            progress.update(task, completed=inputs.position, rows=rows, note=state.waiting_for or "")

        yield on_upload
        progress.update(task, total=size or 1, completed=size or 1)


@contextmanager
def _scoring_bar() -> Iterator[OnStatus]:
    with _bars() as progress:
        task = progress.add_task("score", total=None, rows="", note="")

        def on_status(status: JobStatus) -> None:
            note = f"{status.failed:,} failed" if status.failed else ""
            if status.live_workers == 0 and not status.state.is_final:
                note = f"no live worker listens on lane {status.lane}"
            done = status.total - status.pending
            progress.update(task, total=status.total, completed=done, rows=_rows(status), note=note)

        yield on_status


class _Lines:
    """Plain lines, not too many of them."""

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator
        self._next_at = time.monotonic() + LINE_EVERY_S

    def say(self, line: Callable[[], str], *, is_last: bool = False) -> None:
        now = time.monotonic()
        if now >= self._next_at or is_last:
            self._next_at = now + LINE_EVERY_S
            self._narrator.note(line())


def _rate(state: UploadProgress, started: float) -> str:
    return f"{state.rows / max(time.monotonic() - started, 1e-3):,.0f}"


def _uploaded(state: UploadProgress, started: float) -> str:
    is_short = time.monotonic() - started < 1
    return f"uploaded {state.rows:,} rows" + ("" if is_short else f", {_rate(state, started)} rows/s")


def _rows(status: JobStatus) -> str:
    rate = f", {status.rows_per_second:,.0f}/s" if status.rows_per_second else ""
    return f"{status.total - status.pending:,} of {status.total:,} rows{rate}"


def _line(status: JobStatus) -> str:
    left = f", {status.eta_seconds:,.0f} s left" if status.eta_seconds else ""
    verb = "scored" if not status.state.is_final else str(status.state)
    return f"{verb}: {_rows(status)}{left}, {status.failed:,} failed"


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description:<6}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]}"),
        TimeRemainingColumn(),
        TextColumn("[yellow]{task.fields[note]}"),
        console=Console(stderr=True),
        refresh_per_second=8,
    )
