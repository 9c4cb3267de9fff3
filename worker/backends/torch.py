"""A transformers sequence classifier in torch, on a CPU or a CUDA device."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

# Read by OpenMP when torch is loaded. By default its threads spin between the hundred parallel steps of a forward pass;
# when tokenising, Redis or a neighbour needs a core meanwhile, each step waits out a time slice: one sentence took
# 480 ms on two shared cores, and 13 ms with threads that sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from scorequeue.errors import UsageError, VerificationError
from worker.backends import DeviceFullError, DeviceLostError, PaddedBatch, Running, Scores
from worker.cpu import cpu_name, has_native_bfloat16, streams, usable_cpus

CUDA_DEPTH = 2
"""Batches on a GPU at once: one runs, the next one waits in the stream."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

READY_MASK_MODELS = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra")
"""Architectures that hand a mask of four dimensions to SDPA as is. ModernBERT would use it instead of its windows."""

MEMORY_WORDS = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""How torch says that memory is short where it raises a bare RuntimeError."""

LOST_WORDS = "CUDA error"
"""How it says that the process's context is of no more use."""

T = TypeVar("T")


class TorchBackend:
    """A checkpoint loaded on one device.

    Args:
        folder: A transformers folder with safetensors weights.
        device: ``cpu``, ``cuda``, ``cuda:1``..., or ``auto``: CUDA where there is a device.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: bfloat16 where the device computes in it natively,
            else float16 on CUDA and float32 on a CPU.

    Raises:
        UsageError: There is no such device or dtype.
        VerificationError: The folder cannot be loaded, or lacks weights of the classifier.
    """

    name = "torch"

    def __init__(self, folder: Path, *, device: str = "auto", dtype: str = "auto") -> None:
        self._device = _find_device(device)
        chosen = choose_dtype(self._device) if dtype == "auto" else DTYPES.get(dtype)
        if chosen is None:
            raise UsageError(f"dtype should be auto or one of {', '.join(DTYPES)}, got {dtype!r}")
        self.dtype = str(chosen).removeprefix("torch.")
        self.is_fast = self._device.type == "cuda"
        if self.is_fast:
            # It plans anew for each shape of a batch: 30,000 rows/s in the first pass over new shapes, 433,000 without
            # it (MiniLM on an H100, docs/performance.md). FlashAttention and the memory-efficient kernels need no plan.
            torch.backends.cuda.enable_cudnn_sdp(False)
            self.device = f"{self._device} ({torch.cuda.get_device_name(self._device)})"
            self.depth = CUDA_DEPTH
        else:
            self.device = cpu_name()
            self.depth = streams() + 1  # one more is ready when one of them ends
        self._model = load_classifier(folder, dtype=chosen).to(self._device).eval()
        # transformers makes such a mask of a flat one, but first asks whether all of it is true: on a GPU that waits
        # for all that was queued before, at the beginning of each pass.
        config = self._model.config
        self._takes_ready_mask = config.model_type in READY_MASK_MODELS and config._attn_implementation == "sdpa"
        # How many threads a pass takes is a property of the thread that runs it.
        self._streams = ThreadPoolExecutor(
            streams(), "torch", initializer=torch.set_num_threads, initargs=(max(1, usable_cpus() // streams()),)
        )

    def begin(self, batch: PaddedBatch) -> Running:
        """Queue a batch on a GPU's stream, or for the next free core, and return what waits for its scores."""
        if self.is_fast:
            return _within_memory(lambda: self._begin_on_cuda(batch))
        return self._streams.submit(_within_memory, lambda: self._run_on_cpu(batch)).result

    @torch.inference_mode()
    def _run_on_cpu(self, batch: PaddedBatch) -> Scores:
        mask = None if batch.is_full else torch.from_numpy(batch.attention_mask)
        scores: Scores = self._forward(torch.from_numpy(batch.input_ids).long(), mask).numpy()
        return scores

    @torch.inference_mode()
    def _begin_on_cuda(self, batch: PaddedBatch) -> Running:
        input_ids = self._to_device(batch.input_ids).long()  # (rows, tokens)
        mask = None
        if not batch.is_full:
            columns = torch.arange(batch.width, device=self._device)
            mask = columns < self._to_device(batch.lengths)[:, None]  # (rows, tokens)
        scores = self._forward(input_ids, mask)
        on_host = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
        on_host.copy_(scores, non_blocking=True)
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # else a core spins until it is there
        done.record(torch.cuda.current_stream(self._device))

        def wait() -> Scores:
            _within_memory(done.synchronize)
            scores: Scores = on_host.numpy()
            return scores

        return wait

    def _to_device(self, numbers: np.ndarray[Any, np.dtype[np.int32]]) -> torch.Tensor:
        """Copy numbers by way of pinned memory, which torch keeps until the copy is done and then uses again."""
        return torch.from_numpy(numbers).pin_memory().to(self._device, non_blocking=True)

    def _forward(self, input_ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if mask is not None:
            width = mask.shape[1]
            # (rows, 1, tokens, tokens), or (rows, tokens)
            mask = mask[:, None, None, :].expand(-1, 1, width, -1) if self._takes_ready_mask else mask.long()
        logits = self._model(input_ids=input_ids, attention_mask=mask).logits
        return torch.softmax(logits.float(), dim=-1)  # (rows, labels)


def load_classifier(folder: Path, *, dtype: torch.dtype, attention: str | None = None) -> Any:
    """Load a sequence classifier on the CPU.

    Args:
        folder: A transformers folder with safetensors weights.
        dtype: Of its weights, whatever the folder was saved in.
        attention: transformers' name of how attention is computed; None takes SDPA wherever the architecture has it.

    Raises:
        VerificationError: The folder cannot be loaded, or lacks weights of the classifier.
    """
    # A load report and bars on stderr are for people who load by hand; what matters of them is an error here.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=dtype,  # left out, a folder saved in float16 loads as float16
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise VerificationError(f"{folder} does not load in transformers: {said}") from error
    if missing := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise VerificationError(f"{folder} lacks weights of the classifier ({missing[0]}, ...): fit or import it again")
    return model


def choose_dtype(device: torch.device) -> torch.dtype:
    """The fastest dtype that the device computes in natively and a classifier can be trusted with."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # the question is about the current one
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if has_native_bfloat16() else torch.float32


def _find_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UsageError(f"device should be auto, cpu, cuda or cuda:N, got {name!r}")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"no device {name}: torch sees {torch.cuda.device_count()} CUDA devices; try --device cpu")
    return device


def _within_memory(run: Callable[[], T]) -> T:
    """Return what ``run`` returns.

    Raises:
        DeviceFullError: Memory is short; torch says so in several ways.
        DeviceLostError: The device is of no more use to this process.
        Exception: Whatever else ``run`` raised.
    """
    try:
        return run()
    except (torch.OutOfMemoryError, MemoryError) as error:
        reason = str(error)
    except RuntimeError as error:
        reason = str(error)
        if not any(word in reason for word in MEMORY_WORDS):
            if LOST_WORDS in reason:
                raise DeviceLostError(reason) from error
            raise
    # Not inside the handlers, and with no cause: the error's frames hold what the failed pass had on the device, which
    # would be there still while its halves run. A context manager would not do: what it raises has a context.
    torch.cuda.empty_cache()
    raise DeviceFullError(reason)
