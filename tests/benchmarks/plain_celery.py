"""What many write first: one Celery task for each sentence, a transformers pipeline in each worker process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery

app = Celery("plain", broker=os.environ.get("PLAIN_REDIS"), backend=os.environ.get("PLAIN_REDIS"))
_pipeline: Any = None


@app.task
def score(text: str) -> dict[str, Any]:
    """Score one sentence."""
    global _pipeline
    if _pipeline is None:
        import torch
        import transformers

        torch.set_num_threads(1)  # a process for each core
        transformers.logging.disable_progress_bar()
        folder = os.environ["PLAIN_FOLDER"]
        _pipeline = transformers.pipeline("text-classification", model=folder, device="cpu", dtype="float32")
    (found,) = _pipeline(text)
    return dict(found)


def rows_per_second(texts: list[str], *, redis_url: str, folder: Path, processes: int) -> float:
    """Score texts with as many worker processes as there are cores, the first few not counted."""
    variables = os.environ | {"PLAIN_REDIS": redis_url, "PLAIN_FOLDER": str(folder)}
    command = [sys.executable, "-m", "celery", "-A", "tests.benchmarks.plain_celery", "worker", "-c", str(processes)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    worker = subprocess.Popen([*command, "-l", "error"], env=variables, **quiet)
    try:
        app.conf.update(broker_url=redis_url, result_backend=redis_url)
        for result in [score.delay(text) for text in texts[: 8 * processes]]:
            result.get(timeout=120)
        began = time.perf_counter()
        for result in [score.delay(text) for text in texts]:
            result.get(timeout=120)
        return len(texts) / (time.perf_counter() - began)
    finally:
        worker.terminate()
        worker.wait(30)
