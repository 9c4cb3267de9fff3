"""Training in several processes: this one, which publishes, and helpers, one a device, that train along.

Lightning would start helpers by running the whole command again. Ours run ``training.helper`` instead: they take no
locks, parse nothing and print nothing, whatever was called (``fit``, ``refresh``, a script). A helper::

    starting    loads what the main process loaded
    ready       says so on its standard output; the main process begins when all are
    training    takes its share of every batch, in step with the others
    ended       with 0; or with an error, which ends all; or because the main process is gone
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from scorequeue.errors import InternalError, ScorequeueError, UsageError

READY = b"ready\n"

GRACE_S = 10.0
"""How long the main process may take to notice by itself that a helper died; it notices at the next exchange."""


def count_devices(wanted: int | str) -> int:
    """How many processes train.

    Args:
        wanted: A number, or ``auto``: as many as there are GPUs, one on a CPU.

    Raises:
        UsageError: There are fewer GPUs than that, or on a CPU fewer cores.
    """
    found = torch.cuda.device_count()
    if wanted == "auto":
        return max(1, found)
    if found and int(wanted) > found:
        raise UsageError(f"--devices {wanted}, but this machine has {found} GPUs; name fewer, or auto")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not found and int(wanted) > cores:
        raise UsageError(f"--devices {wanted}, but this machine has no GPU and {cores} CPU cores; name fewer, or auto")
    return int(wanted)


@contextmanager
def helpers(number: int, *, run: Path, registry: Path) -> Iterator[None]:
    """Have so many helpers train along with what happens inside.

    Args:
        number: Helpers, beside this process; 0 starts none and changes nothing.
        run: The run's folder; helpers read its record, and log to ``process-N.log`` there.
        registry: Where the version is that a warm start begins with.

    Raises:
        InternalError: A helper failed; its own message is told, and the others have ended.
    """
    if not number:
        yield
        return
    # What torch.distributed and Lightning's environment read; they then start no processes themselves.
    place = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(number + 1),
        "NODE_RANK": "0",
    }
    before = {name: os.environ.get(name) for name in (*place, "LOCAL_RANK")}
    threads = torch.get_num_threads()
    processes: list[subprocess.Popen[bytes]] = []
    done = threading.Event()
    try:
        for rank in range(1, number + 1):
            processes.append(_start(rank, run=run, registry=registry, environment=os.environ | place))
        for rank, process in enumerate(processes, start=1):
            assert process.stdout is not None
            if process.stdout.readline() != READY:
                process.wait()
                raise InternalError(_explain(rank, process, run=run))
        os.environ.update(place, LOCAL_RANK="0")
        torch.set_num_threads(max(1, threads // (number + 1)))
        threading.Thread(target=_watch, args=(processes, run, done), daemon=True).start()
        try:
            yield
        except (ScorequeueError, KeyboardInterrupt):
            raise
        except Exception as error:  # what a lost connection is called depends on the backend and the moment
            if (dead := _find_dead(processes, timeout_s=GRACE_S)) is None:
                raise
            raise InternalError(_explain(dead, processes[dead - 1], run=run)) from error
        for rank, process in enumerate(processes, start=1):
            if process.wait() != 0:
                raise InternalError(_explain(rank, process, run=run))
    finally:
        done.set()
        for process in processes:
            process.kill()
            process.communicate()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        torch.set_num_threads(threads)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start(rank: int, *, run: Path, registry: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with (run / f"process-{rank}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "training.helper", str(run), str(registry)],
            env=environment | {"LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,  # its end tells a helper that the main process is gone
            stdout=subprocess.PIPE,
            stderr=log,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _find_dead(processes: list[subprocess.Popen[bytes]], *, timeout_s: float) -> int | None:
    """The rank of a helper that failed; a failure here may come before its own end."""
    for rank, process in enumerate(processes, start=1):
        try:
            if process.wait(timeout_s) != 0:
                return rank
        except subprocess.TimeoutExpired:
            continue
    return None


def _watch(processes: list[subprocess.Popen[bytes]], run: Path, done: threading.Event) -> None:
    """End this process if a helper has died and it waits for it all the same, deep in a collective."""
    while not done.wait(0.2):
        dead = [rank for rank, process in enumerate(processes, start=1) if process.poll() not in (None, 0)]
        if dead:
            if not done.wait(GRACE_S):
                print(f"Error: {_explain(dead[0], processes[dead[0] - 1], run=run)}", file=sys.stderr, flush=True)
                os._exit(InternalError.exit_code)
            return


def _explain(rank: int, process: subprocess.Popen[bytes], *, run: Path) -> str:
    log = run / f"process-{rank}.log"
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    if process.returncode is not None and process.returncode < 0:
        reason = f"was ended by {signal.Signals(-process.returncode).name}"
    else:
        reason = f"failed: {lines[-1].removeprefix('Error: ')}" if lines else f"ended with {process.returncode}"
    return f"training process {rank} {reason}; nothing was published (its log is {log})"
