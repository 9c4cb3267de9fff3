"""``producer submit`` as a process that a scenario feeds, kills and waits for."""

from __future__ import annotations

import contextlib
import subprocess

from tests.faults.stage import Stage
from tests.shell import Shell


class Submit:
    """``producer submit`` in a process of its own, fed through its standard input.

    Args:
        stage: Whose Redis it submits to.
        args: Options of the command.
        url: How it gets to Redis, if not directly.
    """

    def __init__(self, stage: Stage, *args: str, url: str | None = None) -> None:
        settings = stage.settings
        shell = Shell(stage.folder, settings if url is None else settings.model_copy(update={"redis_url": url}))
        self.process = subprocess.Popen(
            shell.command("submit", *args),
            cwd=shell.folder,
            env=shell.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        stage.stack.callback(self._end)
        self.out = b""
        self.said = ""

    def send(self, texts: list[str]) -> None:
        """Write sentences to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{text}\n" for text in texts).encode())
        self.process.stdin.flush()  # returns when the pipe has taken it all, so most of it was read

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up."""
        self.process.kill()
        self.process.wait(10)

    def _end(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def finish(self, timeout_s: float = 90) -> int:
        """Close its input, and wait for its end. Returns the exit status."""
        self.out, err = self.process.communicate(timeout=timeout_s)
        self.said = err.decode()
        return self.process.returncode
