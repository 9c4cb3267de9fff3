from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker import cpu


@pytest.mark.parametrize(("quota", "cpus"), [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("", 8)])
def test_threads_follow_the_containers_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, cpus: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(cpu, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))

    assert cpu.usable_cpus() == cpus


@pytest.mark.parametrize(("variables", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_openmp_is_told_to_sleep_before_any_command_loads_torch(variables: dict[str, str], policy: str) -> None:
    """OpenMP reads it once. To look for a GPU, torch is loaded long before the backend that used to set it."""
    script = """
import os, sys
from worker.cli import cli, main
@cli.command("say")
def say(): print(os.environ.get("OMP_WAIT_POLICY"), "torch" in sys.modules)
main()
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | variables

    ended = subprocess.run(
        [sys.executable, "-c", script, "say"], env=environment, capture_output=True, text=True, check=True
    )

    assert ended.stdout.split() == [policy, "False"]


@pytest.mark.parametrize(
    ("line", "is_native"),
    [
        ("flags\t\t: fpu avx512f avx512_vnni amx_tile", False),
        ("flags\t\t: fpu avx512f avx512_bf16 avx512_vnni", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("Features\t: fp asimd svebf16", False),
        ("model name\t: a bf16 machine", False),
    ],
)
def test_bfloat16_is_taken_only_where_it_is_native(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, is_native: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\nbugs\t\t: none\n")
    monkeypatch.setattr(cpu, "CPU_INFO", tmp_path / "cpuinfo")

    assert cpu.has_native_bfloat16() == is_native


def test_a_machine_that_does_not_say_is_taken_for_one_without_bfloat16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpu, "CPU_INFO", tmp_path / "none")

    assert not cpu.has_native_bfloat16()
