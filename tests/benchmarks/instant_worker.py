"""``worker start`` with the version's real tokenizer, and a device process that answers at once.

python -m tests.benchmarks.instant_worker start

The file that ``BENCH_THREADS`` names gets the names of its threads, once a second, by the kernel's id.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

from scorequeue.registry import Registry
from worker.backends.fake import FakeBackend
from worker.device.loading import LoadedModel
from worker.tokenizing import TokenizerFiles


class InstantBackend(FakeBackend):
    """A GPU without a forward pass, if ``BENCH_FAST`` is there."""

    depth = 2
    is_fast = "BENCH_FAST" in os.environ


def load(registry: Registry, version: str, **options: object) -> LoadedModel:
    """Take the place of ``load_model``."""
    manifest = registry.manifest(version)
    return LoadedModel(
        version=version,
        labels=manifest.labels,
        backend=InstantBackend(label_count=len(manifest.labels)),
        tokenizer=TokenizerFiles(registry.path(version), manifest.max_length).open(),
    )


def name_threads(path: Path) -> None:
    """Keep the file up to date."""
    while True:
        path.write_text(json.dumps({thread.native_id: thread.name for thread in threading.enumerate()}))
        time.sleep(1)


def main() -> None:
    """Run the command, or its device process."""
    if sys.argv[1] != "start":
        from worker.device import __main__ as device

        device.load_model = load  # type: ignore[attr-defined]
        device.main()
        return
    from worker.cli import main as worker_main
    from worker.device import process

    process.CHILD_MODULE = "tests.benchmarks.instant_worker"
    threading.Thread(target=name_threads, args=(Path(os.environ["BENCH_THREADS"]),), daemon=True).start()
    sys.argv[0] = "worker"
    worker_main()


if __name__ == "__main__":
    main()
