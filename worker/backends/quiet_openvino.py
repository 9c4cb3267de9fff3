"""OpenVINO without its telemetry.

Left alone, every import and every conversion is reported to its makers over the network. A worker talks to its Redis
and to nobody else.
"""

from __future__ import annotations

import sys

# An entry of None makes the import fail, and OpenVINO then takes a stub that sends nothing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino  # noqa: E402

__all__ = ["openvino"]
