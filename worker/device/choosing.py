"""Which backend a worker scores with, and why."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from scorequeue.errors import ConversionError, MissingExtraError, UsageError
from scorequeue.logs import fields
from worker.backends import Backend

log = logging.getLogger(__name__)

NVIDIA_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # Linux; Windows' Linux


def choose_backend(*, backend: str = "auto", device: str = "auto", dtype: str = "auto") -> tuple[str, str]:
    """Decide between torch and openvino: a GPU needs torch, and a CPU is faster with OpenVINO.

    Args:
        backend: ``torch``, ``openvino`` or ``auto``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.

    Returns:
        The backend, and why in words.

    Raises:
        UsageError: No such backend, or one that cannot do what is asked.
        MissingExtraError: It is not installed.
    """
    if backend not in ("auto", "torch", "openvino"):
        raise UsageError(f"backend should be auto, torch, openvino or fake, got {backend!r}")
    has_openvino = importlib.util.find_spec("openvino") is not None
    if backend == "openvino" and device.startswith("cuda"):
        raise UsageError(f"openvino runs on the CPU, not on {device}; leave --backend out, or name torch")
    if backend == "openvino" and not has_openvino:
        raise MissingExtraError('openvino is not installed; run: pip install "scorequeue[worker]"')
    if backend != "auto":
        return backend, "it was asked for"
    if device.startswith("cuda"):
        return "torch", "a CUDA device was asked for"
    if device == "auto" and has_nvidia_driver():
        import torch  # seconds, so only where there may be a GPU

        if torch.cuda.is_available():
            return "torch", "there is a CUDA device"
    if dtype == "float16":
        return "torch", "openvino takes no float16 on a CPU"
    if not has_openvino:
        return "torch", "openvino is not installed"
    return "openvino", "no CUDA device, and openvino is the faster one on a CPU"


def has_nvidia_driver() -> bool:
    """Whether asking torch for CUDA devices is worth the seconds that importing it takes."""
    return any(path.exists() for path in NVIDIA_DEVICES)


def open_backend(folder: Path, *, backend: str, device: str, dtype: str, cache_dir: Path, max_length: int) -> Backend:
    """Load a checkpoint folder with the backend that ``choose_backend`` takes, or torch where OpenVINO cannot run it.

    Raises:
        UsageError: No such backend, device or dtype.
        VerificationError: The folder does not load, or openvino was asked for and cannot run it.
    """
    chosen, why = choose_backend(backend=backend, device=device, dtype=dtype)
    opened: Backend | None = None
    # Backends are imported where they are needed: torch takes seconds, and most workers do without one of them.
    if chosen == "openvino":
        from worker.backends.openvino import OpenVinoBackend

        try:
            opened = OpenVinoBackend(folder, dtype=dtype, cache_dir=cache_dir, max_length=max_length)
        except ConversionError as error:
            if backend == "openvino":
                raise
            why = str(error)
            log.warning("OpenVINO cannot run this checkpoint", extra=fields("not_converted", error=why))
    if opened is None:
        from worker.backends.torch import TorchBackend

        opened = TorchBackend(folder, device=device, dtype=dtype)
    facts = fields("backend_chosen", backend=opened.name, device=opened.device, dtype=opened.dtype, why=why)
    log.info("backend chosen", extra=facts)
    return opened
