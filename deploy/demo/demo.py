"""The whole path on this machine, with the commands a user would type: train, start a worker, submit, read results.

What it starts it stops; the checkpoint stays in .scorequeue/registry, so that a second run does not train again.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SENTENCES = Path("deploy/demo/sentences.txt")
WORKER_LOG = Path(".scorequeue/demo-worker.log")
READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0


def main() -> None:
    """Run the demo; a step that fails ends it with that step's exit code."""
    os.chdir(ROOT)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    if not Path(".scorequeue/registry/current").exists():
        say("1. Train a checkpoint on sentences that the project makes itself (about a minute)")
        run("training", "fit", "--dataset", "sample")
    else:
        say("1. A checkpoint is there from an earlier run; no training")

    say("2. Start a worker; --local brings a Redis with it")
    with worker():
        say(f"3. Submit {SENTENCES}, wait, and read the scores")
        job_id = read("producer", "submit", str(SENTENCES))
        wait_for(job_id)
        run("producer", "results", job_id, "--join", str(SENTENCES), "--format", "table")
        status = status_of(job_id)
    print(
        f"\n{status['scored']} of {status['total']} sentences scored by version {status['model_version']}"
        f" at {status['rows_per_second']:.0f} rows/s; job {job_id}"
    )
    print(NEXT)


NEXT = """
Try next (the commands are in .venv/bin):
  worker start --local                              a worker of your own; Ctrl-C drains it
  producer submit --text "Me likes sentences." --wait
  producer submit FILE.csv --wait --join --output scored.csv
  producer status JOB                               how far a job is
  training fit --dataset cola                       a checkpoint fitted on the real task (needs the hub)"""


@contextmanager
def worker() -> Iterator[None]:
    """A worker process, from ready to drained."""
    WORKER_LOG.parent.mkdir(exist_ok=True)
    command = ["worker", "start", "--local"]
    echo(command, f"  (log: {WORKER_LOG})")
    with WORKER_LOG.open("wb") as log:
        # A session of its own: Ctrl-C reaches this script, which then drains the worker.
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        give_up_at = time.monotonic() + READY_TIMEOUT_S
        while not is_ready(process.pid):
            if process.poll() is not None or time.monotonic() > give_up_at:
                sys.exit(f"the worker did not get ready; its log says:\n{WORKER_LOG.read_text()}")
            time.sleep(0.3)
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_TIMEOUT_S)


def is_ready(pid: int) -> bool:
    """Whether the worker is listed as live."""
    answer = subprocess.run(["worker", "status", "--json"], capture_output=True, text=True, check=False)
    return answer.returncode == 0 and any(worker["pid"] == pid for worker in json.loads(answer.stdout))


def wait_for(job_id: str) -> None:
    """Wait until the job has ended."""
    give_up_at = time.monotonic() + READY_TIMEOUT_S
    while not status_of(job_id)["finished_at"]:
        if time.monotonic() > give_up_at:
            sys.exit(f"job {job_id} did not end in {READY_TIMEOUT_S:.0f} s; see {WORKER_LOG}")


def status_of(job_id: str) -> dict[str, Any]:
    """The job's status."""
    status: dict[str, Any] = json.loads(read("producer", "status", job_id, "--json", is_shown=False))
    return status


def run(*command: str) -> None:
    """Show a command and run it; what it prints is the user's to see."""
    echo(command)
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(status)


def read(*command: str, is_shown: bool = True) -> str:
    """Run a command and return what it prints on stdout."""
    if is_shown:
        echo(command)
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        sys.exit(answer.returncode)
    if is_shown:
        print(answer.stdout, end="", flush=True)
    return answer.stdout.strip()


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n{text}", flush=True)


def echo(command: Sequence[str], remark: str = "") -> None:
    """Print a command as one would type it."""
    print(f"   $ {shlex.join(command)}{remark}", flush=True)


if __name__ == "__main__":
    main()
