"""Which backend a worker scores with, and why."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

from scorequeue.errors import ConversionError, MissingExtraError, UsageError
from scorequeue.logs import fields
from worker.backends import Backend
from worker.cpu import has_nvidia_driver

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """What ``auto`` stands for on this machine.

    Attributes:
        backend: ``torch`` or ``openvino``.
        why: In words.
    """

    backend: str
    why: str


def choose_backend(*, backend: str = "auto", device: str = "auto", dtype: str = "auto") -> Choice:
    """Decide between torch and openvino: a GPU needs torch, and a CPU is faster with OpenVINO.

    Args:
        backend: ``torch``, ``openvino`` or ``auto``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        UsageError: No such backend, or one that cannot do what is asked.
        MissingExtraError: It is not installed.
    """
    if backend not in ("auto", "torch", "openvino"):
        raise UsageError(f"backend should be auto, torch, openvino or fake, got {backend!r}")
    has_openvino = importlib.util.find_spec("openvino") is not None
    if backend == "openvino":
        if device.startswith("cuda"):
            raise UsageError(f"openvino runs on the CPU, not on {device}; leave --backend out, or name torch")
        if not has_openvino:
            raise MissingExtraError('openvino is not installed; run: pip install "scorequeue[worker]"')
        return Choice("openvino", "it was asked for")
    if backend == "torch":
        return Choice("torch", "it was asked for")
    if device.startswith("cuda"):
        return Choice("torch", "a CUDA device was asked for")
    if device == "auto" and has_nvidia_driver():
        import torch  # seconds, so only where there may be a GPU

        if torch.cuda.is_available():
            return Choice("torch", "there is a CUDA device")
    if dtype == "float16":
        return Choice("torch", "openvino takes no float16 on a CPU")
    if not has_openvino:
        return Choice("torch", "openvino is not installed")
    return Choice("openvino", "no CUDA device, and openvino is the faster one on a CPU")


def open_backend(folder: Path, *, backend: str, device: str, dtype: str, cache_dir: Path, max_length: int) -> Backend:
    """Load a checkpoint folder with the backend that suits.

    Args:
        folder: A transformers folder with safetensors weights.
        backend: See ``choose_backend``.
        device: See ``choose_backend``.
        dtype: See ``choose_backend``.
        cache_dir: Where openvino keeps converted models.
        max_length: Most tokens that the model reads.

    Raises:
        UsageError: No such backend, device or dtype.
        VerificationError: The folder does not load, or openvino was asked for and cannot run it. With ``auto``, torch
            then runs it, and why is logged.
    """
    choice = choose_backend(backend=backend, device=device, dtype=dtype)
    # Backends are imported where they are needed: torch takes seconds, and most workers do without one of them.
    if choice.backend == "openvino":
        from worker.backends.openvino import OpenVinoBackend

        try:
            return _opened(choice, OpenVinoBackend(folder, dtype=dtype, cache_dir=cache_dir, max_length=max_length))
        except ConversionError as error:
            if backend == "openvino":
                raise
            log.warning("OpenVINO cannot run this checkpoint", extra=fields("not_converted", error=str(error)))
            choice = Choice("torch", str(error))
    from worker.backends.torch import TorchBackend

    return _opened(choice, TorchBackend(folder, device=device, dtype=dtype))


def _opened(choice: Choice, backend: Backend) -> Backend:
    facts = fields("backend_chosen", backend=backend.name, device=backend.device, dtype=backend.dtype, why=choice.why)
    log.info("backend chosen", extra=facts)
    return backend
