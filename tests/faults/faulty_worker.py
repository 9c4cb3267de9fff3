"""``worker start`` whose child processes do harm: rows that kill, raise or hang, a sick device.

    python -m tests.faults.faulty_worker start

The worker's own process is the real one, but for its tokenizer, which marks such rows. Its device process
(``faulty_device``) has a fake model. What a row does is in its text; the rest comes from the environment:

    FAULTS_ROWS_PER_S     speed of the device
    FAULTS_LOAD_S         seconds that the device process takes to load a version
    FAULTS_DEPTH          batches that the device works on at once, instead of 1
    FAULTS_FAST           set for a device so fast that processes tokenise for it, as a GPU
    FAULTS_SICK           a file: while it says so, the device "raises", "dies" or "hangs" at everything
    FAULTS_KILLS_LOADING  a version that kills each process that loads it
    FAULTS_LOADS          a file that gets a line for each version that a device process begins to load
    FAULTS_LOAD_AFTER     seconds that a job waits before its version is loaded, or tried again, instead of 30
    FAULTS_HASTY          seconds after which a tokenizer counts as hung, instead of 60 here and 10 in a child process,
                          and fewest seconds after which a device process does that starts anew, instead of 60
"""

from __future__ import annotations

import os
import sys

KILLER = "this row kills"
POISON = "this row raises"
HANGING = "this row hangs"
ABORT = "this row aborts"
TOKEN_KILLER = "this row kills the tokenizer"
TOKEN_POISON = "this row raises in the tokenizer"
TOKEN_HANGING = "this row hangs the tokenizer"


def main() -> None:
    """Put the faults in their places, and run the command."""
    import worker.device.process
    import worker.service
    import worker.tasks
    import worker.tokenizing
    import worker.versions
    from tests.faults.faulty_tokenizer import make_tokenizers_faulty
    from worker.cli import main as worker_main

    make_tokenizers_faulty()
    worker.tokenizing.CHILD_MODULE = "tests.faults.faulty_tokenizer"
    worker.device.process.CHILD_MODULE = "tests.faults.faulty_device"
    if load_after := os.environ.get("FAULTS_LOAD_AFTER"):
        worker.tasks.LOAD_AFTER_S = worker.versions.RETRY_S = float(load_after)
    if hasty := os.environ.get("FAULTS_HASTY"):
        worker.service.STUCK_AFTER_S = worker.tokenizing.ANSWER_S = float(hasty)
        worker.device.process.RESTART_S = float(hasty)
    sys.argv[0] = "worker"
    worker_main()


if __name__ == "__main__":
    main()
