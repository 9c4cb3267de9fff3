"""Runs ``producer`` as a person would: a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scorequeue.settings import Settings


class Shell:
    """Runs ``producer`` in a folder of its own, on this test's namespace."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("SCOREQUEUE_")}
        self.env |= {"SCOREQUEUE_REDIS_URL": settings.redis_url, "SCOREQUEUE_NAMESPACE": settings.namespace}

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "producer", *args]

    def __call__(self, *args: str, code: int = 0, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
        run = subprocess.run(
            self.command(*args),
            cwd=self.folder,
            env=self.env,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=60,
        )
        done = subprocess.CompletedProcess(args, run.returncode, run.stdout.decode(), run.stderr.decode())
        assert done.returncode == code, f"{args} ended with {done.returncode}: {done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    @contextmanager
    def start(self, *args: str, stdin: int = subprocess.DEVNULL, text: bool = True) -> Iterator[subprocess.Popen[Any]]:
        """Start a command and do not wait; it is killed at the end of the block if it still runs.

        It hears Ctrl-C and hang-ups: a shell's background job and nohup ignore them, and their children inherit that.
        """
        process = subprocess.Popen(
            self.command(*args),
            cwd=self.folder,
            env=self.env,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=text,
            preexec_fn=hear_signals,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def error(self, *args: str, code: int, stdin: bytes | None = None) -> str:
        """Run a command that must fail with one line and nothing on stdout; return the line."""
        done = self(*args, code=code, stdin=stdin)
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("Error: ")
        return lines[0]

    def write(self, name: str, content: str | bytes) -> str:
        (self.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name


def hear_signals() -> None:
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
