"""A transformers sequence classifier in torch, on a CPU or a CUDA device."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

# Read by OpenMP when torch is loaded. By default its threads spin between the hundred parallel steps of a forward pass;
# when tokenising, Redis or a neighbour needs a core meanwhile, each step waits out a time slice: one sentence took
# 480 ms on two shared cores, and 13 ms with threads that sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from scorequeue.errors import UsageError
from worker.backends import DeviceFullError, DeviceLostError, PaddedBatch, Running, Scores
from worker.backends.checkpoint import load_classifier
from worker.cpu import has_native_bfloat16, streams, usable_cpus

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
        self._is_cuda = self.is_fast = self._device.type == "cuda"
        if self._is_cuda:
            # It plans anew for each shape of a batch: 30,000 rows/s in the first pass over new shapes, 433,000 without
            # it (MiniLM on an H100, docs/performance.md). FlashAttention and the memory-efficient kernels need no plan.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self._model = load_classifier(folder, dtype=chosen).to(self._device).eval()
        # transformers makes such a mask of a flat one, but first asks whether all of it is true: on a GPU that waits
        # for all that was queued before, at the beginning of each pass.
        config = self._model.config
        self._takes_ready_mask = config.model_type in READY_MASK_MODELS and config._attn_implementation == "sdpa"
        self.dtype = str(chosen).removeprefix("torch.")
        self.label_count = int(self._model.config.num_labels)
        self.depth = CUDA_DEPTH if self._is_cuda else streams() + 1  # one more is ready when one of them ends
        self._free: list[_HostBuffer] = []
        # How many threads a pass takes is a property of the thread that runs it.
        self._streams = ThreadPoolExecutor(
            streams(), "torch", initializer=torch.set_num_threads, initargs=(max(1, usable_cpus() // streams()),)
        )

    @property
    def device(self) -> str:
        """What the model runs on, in words."""
        if self._is_cuda:
            return f"{self._device} ({torch.cuda.get_device_name(self._device)})"
        return f"cpu ({platform.machine()}, {usable_cpus()} threads)"

    def begin(self, batch: PaddedBatch) -> Running:
        """Queue a batch on a GPU's stream, or for the next free core, and return while it runs.

        Raises:
            DeviceFullError: The GPU has no memory for it.
        """
        if not self._is_cuda:
            return _OnCpu(self._streams.submit(_within_memory, lambda: self._run_on_cpu(batch)))
        return _within_memory(lambda: self._begin_on_cuda(batch))

    @torch.inference_mode()
    def _run_on_cpu(self, batch: PaddedBatch) -> Scores:
        mask = None if batch.is_full else torch.from_numpy(batch.attention_mask.astype(np.int64))
        scores: Scores = self._forward(torch.from_numpy(batch.input_ids).long(), mask).numpy()
        return scores

    @torch.inference_mode()
    def _begin_on_cuda(self, batch: PaddedBatch) -> Running:
        # Not a ring: what runs while a guilty row is looked for comes beside the batches in flight.
        buffer = self._free.pop() if self._free else _HostBuffer()
        host_ids, host_lengths = buffer.fill(batch)
        input_ids = host_ids.to(self._device, non_blocking=True).long()  # (rows, tokens)
        mask = None
        if not batch.is_full:
            lengths = host_lengths.to(self._device, non_blocking=True)
            columns = torch.arange(batch.width, device=self._device)
            mask = columns < lengths[:, None]  # (rows, tokens)
        scores = self._forward(input_ids, mask)
        on_host = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
        on_host.copy_(scores, non_blocking=True)
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # else a core spins until it is there
        done.record(torch.cuda.current_stream(self._device))
        return _OnCuda(on_host, done, buffer, self._free)

    def _forward(self, input_ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if mask is not None:
            width = mask.shape[1]
            # (rows, 1, tokens, tokens), or (rows, tokens)
            mask = mask.bool()[:, None, None, :].expand(-1, 1, width, -1) if self._takes_ready_mask else mask.long()
        logits = self._model(input_ids=input_ids, attention_mask=mask).logits
        return torch.softmax(logits.float(), dim=-1)  # (rows, labels)


class _OnCpu:
    """A batch in a thread of its own."""

    def __init__(self, future: Future[Scores]) -> None:
        self._future = future

    def scores(self) -> Scores:
        return self._future.result()


class _OnCuda:
    """A batch in a stream, whose scores are on their way to pinned memory."""

    def __init__(
        self, on_host: torch.Tensor, done: torch.cuda.Event, buffer: _HostBuffer, free: list[_HostBuffer]
    ) -> None:
        self._on_host = on_host
        self._done = done
        self._buffer = buffer
        self._free = free

    def scores(self) -> Scores:
        _within_memory(self._done.synchronize)
        self._free.append(self._buffer)  # whatever was copied from it is done
        scores: Scores = self._on_host.numpy()
        return scores


class _HostBuffer:
    """Pinned memory that a batch is copied from; it grows and is used again."""

    def __init__(self) -> None:
        self._ids = torch.empty(0, dtype=torch.int32)
        self._lengths = torch.empty(0, dtype=torch.int32)

    def fill(self, batch: PaddedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        if self._ids.numel() < batch.input_ids.size:
            self._ids = torch.empty(batch.input_ids.size, dtype=torch.int32, pin_memory=True)
        if self._lengths.numel() < batch.rows:
            self._lengths = torch.empty(batch.rows, dtype=torch.int32, pin_memory=True)
        ids = self._ids[: batch.input_ids.size].view(batch.rows, batch.width)
        lengths = self._lengths[: batch.rows]
        ids.copy_(torch.from_numpy(batch.input_ids))
        lengths.copy_(torch.from_numpy(batch.lengths))
        return ids, lengths


def choose_dtype(device: torch.device) -> torch.dtype:
    """The fastest dtype that the device computes in natively and a classifier can be trusted with."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # the question is about the current one
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if has_native_bfloat16() else torch.float32


def _find_device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device should be auto, cpu, cuda or cuda:N, got {device!r}") from error
    if found.type not in ("cpu", "cuda"):
        raise UsageError(f"device should be auto, cpu, cuda or cuda:N, got {device!r}")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"no device {device}: torch sees {torch.cuda.device_count()} CUDA devices; try --device cpu")
    return found


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
