"""What a fit notes of its course."""

from __future__ import annotations

import pytest

from tests.tiny import make_tiny_base
from training import sample
from training.config import FitConfig
from training.fit import FitResult, fit
from training.sources import DEV_FILE, TRAIN_FILE


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    folder = tmp_path_factory.mktemp("curves")
    for name, rows in zip((TRAIN_FILE, DEV_FILE), sample.make(seed=0, train_pairs=200, dev_pairs=20), strict=True):
        (folder / name).write_text("".join(f"made\t{label}\t\t{text}\n" for text, label in rows), "utf-8")
    base = make_tiny_base(folder / "base")
    return fit(
        FitConfig.load(
            dataset=str(folder),
            base_model=str(base),
            epochs=2,
            lr=1e-3,
            precision="32-true",
            registry=folder / "r",
            runs=folder / "runs",
        )
    )


def test_curves_hold_loss_and_rate_by_step_and_figures_by_epoch(fitted: FitResult) -> None:
    curves = fitted.curves

    assert [point.step for point in curves.steps] == [10, 20]  # 13 steps an epoch
    assert curves.steps[1].lr == pytest.approx(1e-3 * (26 - 19) / (26 - 1), rel=1e-5)
    assert all(0 < point.train_loss < 5 for point in curves.steps)
    assert [(point.epoch, point.step) for point in curves.epochs] == [(1, 13), (2, 26)]
    best = max(curves.epochs, key=lambda point: point.val_mcc)
    assert (best.val_mcc, best.val_accuracy) == pytest.approx((fitted.mcc, fitted.accuracy), abs=1e-6)
    assert best.val_loss == pytest.approx(fitted.loss, abs=1e-5)
