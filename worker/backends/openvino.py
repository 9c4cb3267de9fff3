"""A transformers sequence classifier in OpenVINO, on a CPU: no torch in this process."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

import numpy as np

from scorequeue.errors import UsageError, VerificationError
from worker.backends import DeviceFullError, PaddedBatch, Running, Scores
from worker.backends.convert import converted, last_line
from worker.backends.quiet_openvino import openvino
from worker.cpu import has_native_bfloat16, streams, usable_cpus

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}

OUT_OF_MEMORY = re.compile(r"bad_alloc|allocate (?:\d+ bytes of )?memory(?! for)|can't alloc$", re.MULTILINE)
"""What OpenVINO says then. It cannot allocate registers either, at times, or memory for a format: those are bugs."""


class OpenVinoBackend:
    """A checkpoint converted and compiled for this machine's CPU.

    Args:
        folder: A transformers folder with safetensors weights.
        dtype: ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the CPU computes in it natively.
        cache_dir: Where converted models are kept.
        max_length: Most tokens that the model reads.

    Raises:
        UsageError: There is no such dtype here.
        VerificationError: The folder cannot be loaded, or lacks weights of the classifier.
        ConversionError: OpenVINO cannot convert it.
    """

    name = "openvino"
    is_fast = False

    def __init__(self, folder: Path, *, dtype: str = "auto", cache_dir: Path, max_length: int) -> None:
        if dtype == "auto":
            dtype = "bfloat16" if has_native_bfloat16() else "float32"
        if dtype not in PRECISIONS:
            raise UsageError(f"openvino on a CPU takes dtype auto, float32 or bfloat16, got {dtype!r}")
        self._threads = usable_cpus()
        self.depth = streams() + 1  # one more is ready when one of them ends
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
            "NUM_STREAMS": str(streams()),
            "INFERENCE_NUM_THREADS": str(self._threads),
        }
        model = converted(folder, cache_dir, max_length=max_length)
        try:
            self._compiled = openvino.Core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise VerificationError(f"{folder} does not compile in OpenVINO: {last_line(error)}") from error
        if self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() != PRECISIONS[dtype]:
            raise UsageError(f"this CPU does not compute in {dtype}; leave --dtype out, or name float32")
        self.dtype = dtype
        self.label_count = int(self._compiled.output(0).partial_shape[1].get_length())
        self._free: list[Any] = []

    @property
    def device(self) -> str:
        """What the model runs on, in words."""
        return f"cpu ({platform.machine()}, {self._threads} threads)"

    def begin(self, batch: PaddedBatch) -> Running:
        """Queue a batch and return while it runs.

        Raises:
            DeviceFullError: The machine has no memory for it.
        """
        # Not a ring: what runs while a guilty row is looked for comes beside the batches in flight.
        request = self._free.pop() if self._free else self._compiled.create_infer_request()
        inputs = {
            "input_ids": batch.input_ids.astype(np.int64),
            "attention_mask": batch.attention_mask.astype(np.int64),
        }
        try:
            request.start_async(inputs, share_inputs=True)
        except (RuntimeError, MemoryError) as error:
            raise _told_apart(error) from error
        return _InFlight(request, inputs, self._free)


class _InFlight:
    """A batch that was queued; it keeps its inputs alive, which OpenVINO reads in place."""

    def __init__(self, request: Any, inputs: dict[str, Any], free: list[Any]) -> None:
        self._request = request
        self._inputs = inputs
        self._free = free

    def scores(self) -> Scores:
        try:
            self._request.wait()
        except (RuntimeError, MemoryError) as error:
            raise _told_apart(error) from error
        scores: Scores = np.array(self._request.get_output_tensor(0).data, np.float32)
        self._free.append(self._request)  # its tensors are used again, so the scores are a copy
        return scores


def _told_apart(error: RuntimeError | MemoryError) -> Exception:
    is_memory = isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))
    return DeviceFullError(last_line(error)) if is_memory else error
