"""What the machine offers a worker without a GPU: how many CPUs it may use, and whether they compute in bfloat16."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

MOST_STREAMS = 8
"""Batches that run at the same time, each on its share of the cores.

With a core each they need not wait for each other between the hundred small steps of a pass: on two cores (MiniLM)
2,840 rows/s against 2,490 with both cores on one batch in OpenVINO, 2,300 against 1,900 in torch. More streams than
this would make a long row too slow on a machine of many cores.
"""

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = re.compile(r"^(?:flags|Features)\s*:.*\b(?:amx_bf16|avx512_bf16|bf16)\b", re.MULTILINE)


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity, cut to the container's quota, which libraries do not look at."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, -(-int(quota) // int(period))))


def streams() -> int:
    """Batches that should run at the same time on this machine's CPUs."""
    return min(usable_cpus(), MOST_STREAMS)


def cpu_name() -> str:
    """The CPU as a device, in words."""
    return f"cpu ({platform.machine()}, {usable_cpus()} threads)"


def has_native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware: AMX, AVX512-BF16, or ARM's bf16.

    Libraries do not tell: oneDNN takes bfloat16 on any AVX512, and is slower there than in float32. Where the kernel
    does not say either (not Linux), the answer is no: float32 is right everywhere.
    """
    try:
        return BFLOAT16_FLAGS.search(CPU_INFO.read_text()) is not None
    except OSError:
        return False
