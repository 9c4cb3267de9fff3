"""What a person sees on stderr while rows go up and scores come: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from producer.inputs import Inputs
from producer.upload import OnUpload, UploadProgress
from scorequeue.jobs import JobStatus
from scorequeue.terminal import harmless

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY_S = 5.0
"""Plain lines come this often at most; the last one always comes."""

_BAR_CHARACTERS = 12
"""So that the figures of ten million rows fit beside it on a terminal of 80."""

OnStatus = Callable[[JobStatus], None]
OnRows = Callable[[int], None]


class Narrator:
    """Tells how far an upload and a job are.

    Args:
        quiet: Whether to say nothing at all.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.is_quiet = quiet

    @cached_property
    def _has_bars(self) -> bool:
        """Asked when there is something to show: it takes rich, and most commands show nothing."""
        return not self.is_quiet and _can_redraw()

    def note(self, line: str) -> None:
        """Say a line."""
        if not self.is_quiet:
            try:
                print(harmless(line), file=sys.stderr, flush=True)
            except BrokenPipeError:
                raise
            except OSError:  # stderr is a full disk: what was asked for is done all the same
                self.is_quiet = True

    @contextmanager
    def upload(self, inputs: Inputs) -> Iterator[OnUpload]:
        """Show an upload; its share is that of the bytes read, for nobody has counted the rows yet."""
        with _upload_bar(inputs) if self._has_bars else self._upload_lines(inputs) as on_upload:
            yield on_upload

    @contextmanager
    def reading(self, inputs: Inputs) -> Iterator[OnRows]:
        """Show how far inputs are read that nobody uploads."""
        with _reading_bar(inputs) if self._has_bars else self._reading_lines(inputs) as on_rows:
            yield on_rows

    @contextmanager
    def scoring(self) -> Iterator[OnStatus]:
        """Show how far a job is."""
        with _scoring_bar() if self._has_bars else self._scoring_lines() as on_status:
            yield on_status

    @contextmanager
    def _upload_lines(self, inputs: Inputs) -> Iterator[OnUpload]:
        lines = _Lines(self)
        started = time.monotonic()
        last = UploadProgress(0, None)

        def on_upload(state: UploadProgress) -> None:
            nonlocal last
            last = state
            waiting = f"; waiting: {state.waiting_for}" if state.waiting_for else ""
            lines.say(lambda: _moved("uploaded", state.rows, started) + _left(inputs, started) + waiting)

        yield on_upload
        self.note(_moved("uploaded", last.rows, started))

    @contextmanager
    def _reading_lines(self, inputs: Inputs) -> Iterator[OnRows]:
        lines = _Lines(self)
        started = time.monotonic()
        yield lambda rows: lines.say(lambda: _moved("read", rows, started) + _left(inputs, started))

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
            rows = f"{state.rows:,} rows, {_rate(state.rows, started)}/s"
            progress.update(task, completed=inputs.position, rows=rows, note=state.waiting_for or "")

        yield on_upload
        progress.update(task, total=size or 1, completed=size or 1)


@contextmanager
def _reading_bar(inputs: Inputs) -> Iterator[OnRows]:
    with _bars() as progress:
        task = progress.add_task("read", total=inputs.size, rows="", note="")
        started = time.monotonic()

        def on_rows(rows: int) -> None:
            progress.update(task, completed=inputs.position, rows=f"{rows:,} rows, {_rate(rows, started)}/s")

        yield on_rows


@contextmanager
def _scoring_bar() -> Iterator[OnStatus]:
    with _bars() as progress:
        task = progress.add_task("score", total=None, rows="", note="")

        def on_status(status: JobStatus) -> None:
            nobody = _nobody_listens(status)
            rows = _rows(status) + ("" if nobody else f", {status.failed:,} failed")
            done = status.total - status.pending
            progress.update(task, total=status.total, completed=done, rows=rows, note=nobody)

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


def _can_redraw() -> bool:
    """Whether stderr is a terminal on which a bar can be drawn again and again."""
    if not sys.stderr.isatty():
        return False
    from rich.console import Console

    console = Console(stderr=True)
    return console.is_terminal and not console.is_dumb_terminal


def _rate(rows: int, started: float) -> str:
    return f"{rows / max(time.monotonic() - started, 1e-3):,.0f}"


def _moved(verb: str, rows: int, started: float) -> str:
    is_short = time.monotonic() - started < 1
    return f"{verb} {rows:,} rows" + ("" if is_short else f", {_rate(rows, started)} rows/s")


def _left(inputs: Inputs, started: float) -> str:
    """Say how long the rest of the inputs takes, going by bytes; nothing where their size is not known."""
    size, read = inputs.size, inputs.position
    if not size or not read:
        return ""
    return f", {(time.monotonic() - started) * max(size - read, 0) / read:,.0f} s left"


def _nobody_listens(status: JobStatus) -> str:
    is_stuck = status.live_workers == 0 and not status.state.is_final
    return f"no live worker listens on lane {status.lane}" if is_stuck else ""


def _rows(status: JobStatus) -> str:
    rate = f", {status.rows_per_second:,.0f}/s" if status.rows_per_second else ""
    return f"{status.total - status.pending:,} of {status.total:,} rows{rate}"


def _line(status: JobStatus) -> str:
    left = f", {status.eta_seconds:,.0f} s left" if status.eta_seconds else ""
    verb = "scored" if not status.state.is_final else str(status.state)
    nobody = _nobody_listens(status)
    return f"{verb}: {_rows(status)}{left}, {status.failed:,} failed" + (f"; {nobody}" if nobody else "")


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description:<6}"),
        BarColumn(bar_width=_BAR_CHARACTERS),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]}"),
        TimeRemainingColumn(),
        TextColumn("[yellow]{task.fields[note]}"),
        console=Console(stderr=True),
        refresh_per_second=8,
    )
