"""A transformers sequence classifier in OpenVINO, on a CPU: no torch in this process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from scorequeue.errors import UsageError, VerificationError
from worker.backends import DeviceFullError, PaddedBatch, Running, Scores
from worker.backends.convert import converted, last_line, openvino
from worker.cpu import cpu_name, has_native_bfloat16, streams, usable_cpus

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
        self.dtype = dtype
        self.device = cpu_name()
        self.depth = streams() + 1  # one more is ready when one of them ends
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
            "NUM_STREAMS": str(streams()),
            "INFERENCE_NUM_THREADS": str(usable_cpus()),
        }
        model = converted(folder, cache_dir, max_length=max_length)
        try:
            self._compiled = openvino.Core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise VerificationError(f"{folder} does not compile in OpenVINO: {last_line(error)}") from error
        if self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() != PRECISIONS[dtype]:
            raise UsageError(f"this CPU does not compute in {dtype}; leave --dtype out, or name float32")
        self._free: list[Any] = []

    def begin(self, batch: PaddedBatch) -> Running:
        """Queue a batch and return what waits for its scores."""
        request = self._free.pop() if self._free else self._compiled.create_infer_request()
        inputs = {
            "input_ids": batch.input_ids.astype(np.int64),
            "attention_mask": batch.attention_mask.astype(np.int64),
        }
        try:
            request.start_async(inputs, share_inputs=True)
        except (RuntimeError, MemoryError) as error:
            raise _told_apart(error) from error

        def wait(inputs: object = inputs) -> Scores:  # keeps the inputs alive, which OpenVINO reads in place
            try:
                request.wait()
            except (RuntimeError, MemoryError) as error:
                raise _told_apart(error) from error
            scores: Scores = np.array(request.get_output_tensor(0).data, np.float32)
            self._free.append(request)  # its tensors are used again, so the scores are a copy
            return scores

        return wait


def _told_apart(error: RuntimeError | MemoryError) -> Exception:
    is_memory = isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))
    return DeviceFullError(last_line(error)) if is_memory else error
