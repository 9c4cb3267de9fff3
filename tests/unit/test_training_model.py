"""The LightningModule and what it starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scorequeue.errors import ExitCode, InputError, UsageError, VerificationError
from tests.tiny import make_tiny_base
from training import base_models
from training.export import write_folder
from training.model import SentenceClassifier
from training.predict import Predictor
from training.quiet import quiet_libraries
from training.trainer import choose_precision

LABELS = ("unacceptable", "acceptable")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def base(tiny: Path) -> base_models.BaseModel:
    with quiet_libraries():
        return base_models.load(str(tiny), labels=LABELS)


def test_training_step_returns_a_loss_that_reaches_every_weight(base: base_models.BaseModel) -> None:
    """The tutorial that this project began with computed a loss and returned nothing: nothing was learned."""
    module = SentenceClassifier(base.model.train())
    unlogged = {"global_step": 0, "log_every_n_steps": 10, "is_last_batch": False}
    module._trainer = type("UnloggedStep", (), unlogged)()
    batch = {
        "input_ids": torch.randint(5, 60, (4, 7)),
        "attention_mask": torch.ones(4, 7, dtype=torch.long),
        "labels": torch.tensor([0, 1, 1, 0]),
    }

    loss = module.training_step(batch, 0)
    loss.backward()

    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert [name for name, weight in base.model.named_parameters() if weight.grad is None] == []


def test_biases_and_layer_norms_do_not_decay(base: base_models.BaseModel) -> None:
    module = SentenceClassifier(base.model, lr=1e-4, head_lr=1e-3)
    module._trainer = type("OneHundredSteps", (), {"estimated_stepping_batches": 100})()

    parts = module.configure_optimizers()

    names = {id(weight): name for name, weight in base.model.named_parameters()}
    for group in parts["optimizer"].param_groups:
        for weight in group["params"]:
            name = names[id(weight)]
            assert (group["weight_decay"] == 0) == ("bias" in name or "LayerNorm" in name), name
            assert group["initial_lr"] == (1e-3 if "pooler" in name or "classifier" in name else 1e-4), name
    rate = parts["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert rate(0) < rate(3) < rate(6) == 1
    assert rate(50) == pytest.approx(50 / 94)
    assert rate(100) == 0


def test_a_saved_tokenizer_neither_pads_nor_cuts(base: base_models.BaseModel, tmp_path: Path) -> None:
    """MiniLM's own tokenizer.json pads every row to 128 tokens: eleven times the work."""
    from tokenizers import Tokenizer

    base.tokenizer.backend_tokenizer.enable_padding(length=128)
    base.tokenizer.backend_tokenizer.enable_truncation(16)

    write_folder(tmp_path, model=base.model, tokenizer=base.tokenizer, labels=LABELS, max_length=32)

    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert (saved.padding, saved.truncation) == (None, None)
    assert len(saved.encode("word " * 100).ids) > 100


def test_predictor_sorts_labels_and_keeps_the_order_of_texts(base: base_models.BaseModel, tmp_path: Path) -> None:
    write_folder(tmp_path, model=base.model, tokenizer=base.tokenizer, labels=LABELS, max_length=32)
    predictor = Predictor(tmp_path)
    texts = ["A rather long sentence about cats.", "Go!", "word " * 300, ""]

    one_by_one = [predictor.predict(text) for text in texts]
    together = predictor.predict(texts)

    for single, batched in zip(one_by_one, together, strict=True):
        assert {entry["label"] for entry in single} == set(LABELS)
        assert single[0]["score"] >= single[1]["score"]
        assert sum(entry["score"] for entry in single) == pytest.approx(1, abs=1e-6)
        assert [entry["score"] for entry in batched] == pytest.approx([e["score"] for e in single], abs=1e-5)


def test_an_unknown_base_model_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="minilm-l6, bert-tiny, electra-small"):
        base_models.locate("minilm")


def test_an_unreachable_hub_says_what_to_do() -> None:
    """The tests run offline, as a machine behind a firewall does."""
    with (
        quiet_libraries(),
        pytest.raises(UsageError, match="HF_HUB_OFFLINE is set and it is not in the cache") as caught,
    ):
        base_models.load("nobody/no-such-model", labels=LABELS)

    assert caught.value.exit_code == ExitCode.USAGE
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_is_refused(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())

    with quiet_libraries(), pytest.raises(InputError, match=r"lacks tokenizer\.json, model\.safetensors"):
        base_models.load(str(tmp_path), labels=LABELS)


def test_a_limit_above_the_models_is_refused(tiny: Path) -> None:
    with quiet_libraries(), pytest.raises(UsageError, match="--max-length 400 is above the 128 tokens"):
        base_models.load(str(tiny), labels=LABELS, max_length=400)


def test_minilm_with_other_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / base_models.MINILM_PACKAGE
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "model" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(VerificationError, match="sha256"):
        base_models.locate("minilm-l6")


@pytest.mark.parametrize(
    ("model_type", "positions", "pad", "tokenizer_limit", "expected"),
    [
        ("bert", 512, 0, 512, 512),
        ("roberta", 34, 1, int(1e30), 32),
        ("bert", 512, 0, 128, 128),
        ("t5", None, 0, 10**30, 512),
    ],
)
def test_length_limit_is_what_the_positions_hold(
    model_type: str, positions: int | None, pad: int, tokenizer_limit: int, expected: int
) -> None:
    config = type("Config", (), {"model_type": model_type, "max_position_embeddings": positions, "pad_token_id": pad})()
    tokenizer = type("Tokenizer", (), {"model_max_length": tokenizer_limit})()

    assert base_models.read_max_length(config, tokenizer) == expected


def test_chosen_precision_is_taken_as_it_is() -> None:
    assert choose_precision("bf16-mixed") == "bf16-mixed"
    assert choose_precision("auto") in ("bf16-mixed", "32-true")
