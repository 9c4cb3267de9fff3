from __future__ import annotations

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
