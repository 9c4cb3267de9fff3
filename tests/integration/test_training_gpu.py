"""A fit on a GPU replays its steps: it learns what launched steps learn, and never waits for them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from scorequeue.registry import Registry
from tests.tiny import make_tiny_base, publish_tiny
from training import base_models, sample, sources
from training.cuda import StepGraphs
from training.data import SentenceData
from training.model import SentenceClassifier
from training.predict import Predictor
from training.quiet import quiet_libraries

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

TRAIN, DEV = (sources.Split(*zip(*rows, strict=True)) for rows in sample.make(seed=0, train_pairs=200, dev_pairs=50))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("gpu") / "base")


def train(tiny: Path, *, model: type[SentenceClassifier] = SentenceClassifier, **settings: Any) -> pl.Trainer:
    """Two epochs without dropout, so that only the order of sums differs from fit to fit."""
    precision = settings.pop("precision", "32-true")
    with quiet_libraries():
        base = base_models.load(str(tiny), labels=sources.LABELS)
        dataset = sources.LabelledSentences("sample", sources.LABELS, TRAIN, DEV)
        data = SentenceData(dataset, tokenizer=base.tokenizer, batch_size=32)
        trainer = pl.Trainer(
            max_epochs=2,
            precision=precision,
            gradient_clip_val=1.0,
            logger=False,
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model(base.model.train(), lr=1e-3, dropout=0.0, **settings), datamodule=data)
    return trainer


@pytest.mark.parametrize(("precision", "atol"), [("32-true", 1e-3), ("bf16-mixed", 3e-2)])
def test_replayed_steps_learn_what_launched_ones_do(
    precision: str, atol: float, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 a graph that kept the weights it was recorded with would learn nothing."""
    replayed = []
    run = StepGraphs.run
    monkeypatch.setattr(StepGraphs, "run", lambda *a: replayed.append(1) or run(*a))

    launched = train(tiny, precision=precision, cuda_graphs=False).callback_metrics
    assert not replayed
    graphed = train(tiny, precision=precision).callback_metrics

    assert len(replayed) == 2 * -(-len(TRAIN) // 32)
    for name in ("train_loss", "val_loss"):
        assert float(graphed[name]) == pytest.approx(float(launched[name]), abs=atol)


def test_a_model_that_looks_at_its_values_is_trained_all_the_same(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Looking(SentenceClassifier):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits = super().forward(input_ids, attention_mask)
            return logits if bool(logits.isfinite().all()) else -logits

    with caplog.at_level(logging.WARNING, logger="training.model"):
        looking = train(tiny, model=Looking).callback_metrics

    assert [record.message for record in caplog.records if "without CUDA graphs" in record.message]
    expected = train(tiny, cuda_graphs=False).callback_metrics
    assert float(looking["val_loss"]) == pytest.approx(float(expected["val_loss"]), abs=1e-3)


def test_a_recorded_step_neither_waits_nor_depends_on_what_was_before(tiny: Path) -> None:
    """A resumed fit records at other steps, and finds other rows where an epoch's last batch leaves room."""
    with quiet_libraries():
        base = base_models.load(str(tiny), labels=sources.LABELS)
    module = SentenceClassifier(base.model.train()).cuda()
    dataset = sources.LabelledSentences("sample", sources.LABELS, TRAIN, DEV)
    rows = SentenceData(dataset, tokenizer=base.tokenizer).train_rows
    same_width = [row for row in range(len(TRAIN)) if 32 < rows.lengths[row] <= 40]
    small, full, other = (
        {name: value.cuda() for name, value in rows[same_width[part]].items()}
        for part in (slice(0, 5), slice(5, 27), slice(27, 49))
    )
    state = torch.cuda.get_rng_state()
    found = []
    for before in (full, other):
        graphs = StepGraphs(module._loss_of, module.parameters())
        graphs.run(before)
        torch.cuda.set_rng_state(state)
        torch.cuda.set_sync_debug_mode("error")
        try:
            loss = graphs.run(small)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found.append((float(loss), [weight.grad.clone() for weight in module.parameters()]))

    (loss, gradients), (other_loss, other_gradients) = found
    assert loss == other_loss
    assert all(torch.equal(*pair) for pair in zip(gradients, other_gradients, strict=True))
    assert len(graphs._recorded) == 1


def test_dropout_does_not_depend_on_when_a_width_was_recorded(tiny: Path) -> None:
    with quiet_libraries():
        base = base_models.load(str(tiny), labels=sources.LABELS)
    module = SentenceClassifier(base.model.train()).cuda()
    dataset = sources.LabelledSentences("sample", sources.LABELS, TRAIN, DEV)
    rows = SentenceData(dataset, tokenizer=base.tokenizer).train_rows
    batch = {name: value.cuda() for name, value in rows[range(32)].items()}
    graphs = StepGraphs(module._loss_of, module.parameters())
    state = torch.cuda.get_rng_state()

    first = float(graphs.run(batch))
    torch.cuda.set_rng_state(state)
    again = float(graphs.run(batch))
    other = float(graphs.run(batch))

    assert again == first != other


def test_a_predictor_on_the_gpu_agrees_with_one_on_the_cpu(tmp_path: Path) -> None:
    folder = Registry(tmp_path).path(publish_tiny(tmp_path))

    on_cpu, on_gpu = (Predictor(folder, device=device).score(DEV.texts) for device in ("cpu", "cuda"))

    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-4, rtol=0)
