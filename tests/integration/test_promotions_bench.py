"""The promotions part of ``make bench``, made small: it must see what it claims to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import promotions
from tests.tiny import publish_tiny
from tests.unit.test_bench import TEXTS


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotions, "PROMOTIONS", 4)
    monkeypatch.setattr(promotions, "QUIET_S", 1.0)


def test_each_promotion_is_taken_up_and_waited_for(few: None, tmp_path: Path) -> None:
    publish_tiny(tmp_path / "source")

    found = promotions.measure_promotions(TEXTS * 20, registry=tmp_path / "source", folder=tmp_path, backend="torch")

    assert found["of them taken up"] >= 4
    assert found["versions that served"] == promotions.VERSIONS
    assert found["ms for a lone sentence, during promotions, longest"] > 0


def test_a_promotion_that_no_job_gets_fails_the_benchmark(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty promotions of which two were taken up once passed for twenty."""
    publish_tiny(tmp_path / "source")
    monkeypatch.setattr(promotions, "TAKEN_UP_S", 2.0)
    promote = promotions.Registry.promote

    def forget(shelf: promotions.Registry, version: str, *, why: str, **options: Any) -> None:
        if why != "bench":  # the first version's
            promote(shelf, version, why=why, **options)

    monkeypatch.setattr(promotions.Registry, "promote", forget)

    with pytest.raises(AssertionError, match="no job has it"):
        promotions.measure_promotions(TEXTS * 20, registry=tmp_path / "source", folder=tmp_path, backend="fake")
