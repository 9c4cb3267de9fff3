from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from scorequeue.errors import UsageError, VerificationError
from tests.tiny import ARCHITECTURES, make_tiny_base
from worker.backends import DeviceFullError, Encodings, PaddedBatch, Scores, pad_rows
from worker.backends.fake import FakeBackend, FakeTokenizer
from worker.backends.torch import READY_MASK_MODELS, TorchBackend, choose_dtype
from worker.tokenizing import FolderTokenizer

TEXTS = ["The dog slept.", "The cats said that the teacher wrote many letters to her.", "Did she?", "I said so."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("tiny"), labels=3)


def batch_of(encodings: Encodings, *, pad_id: int = 0) -> PaddedBatch:
    return pad_rows(encodings.token_ids, encodings.starts, encodings.lengths, pad_id=pad_id)


def reference_scores(folder: Path, texts: list[str]) -> Scores:
    """What transformers itself says, in float32."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits  # (rows, labels)
    scores: Scores = torch.softmax(logits, -1).numpy()
    return scores


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), min_size=1, max_size=12), st.data())
def test_padding_gathers_just_the_wanted_rows(rows: list[list[int]], data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=12))
    lengths = np.array([len(row) for row in rows], np.int32)
    encodings = Encodings(np.concatenate(rows).astype(np.int32), lengths, np.zeros(len(rows), np.bool_))

    batch = pad_rows(encodings.token_ids, encodings.starts[wanted], lengths[wanted], pad_id=-1)

    width = max(len(rows[row]) for row in wanted)
    assert batch.input_ids.tolist() == [rows[row] + [-1] * (width - len(rows[row])) for row in wanted]
    assert batch.attention_mask.tolist() == (batch.input_ids >= 0).tolist()
    assert batch.is_full == bool(batch.attention_mask.all())


def test_torch_agrees_with_transformers_in_float32(folder: Path) -> None:
    backend = TorchBackend(folder, device="cpu", dtype="float32")

    scores = backend.begin(batch_of(FolderTokenizer(folder, max_length=128).encode(TEXTS)))()

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, reference_scores(folder, TEXTS), atol=1e-6)


def test_padding_does_not_change_a_rows_scores(folder: Path) -> None:
    backend = TorchBackend(folder, device="cpu", dtype="float32")
    tokenizer = FolderTokenizer(folder, max_length=128)

    together = backend.begin(batch_of(tokenizer.encode(TEXTS)))()
    alone = np.concatenate([backend.begin(batch_of(tokenizer.encode([text])))() for text in TEXTS])

    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.fixture(scope="module", params=[*ARCHITECTURES, "xlm-roberta", "camembert"])
def any_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each architecture; the last two are RoBERTa by another name."""
    architecture: str = request.param
    is_tiny = architecture in ARCHITECTURES
    made = make_tiny_base(tmp_path_factory.mktemp("any"), architecture=architecture if is_tiny else "roberta")
    config = json.loads((made / "config.json").read_bytes())
    (made / "config.json").write_text(json.dumps(config | {"model_type": architecture, "architectures": None}))
    return made


@pytest.fixture
def padded() -> PaddedBatch:
    """Rows shorter and longer than ModernBERT's window."""
    lengths = np.array([3, 24, 17, 9, 1], np.int64)
    tokens = np.random.default_rng(0).integers(10, 60, int(lengths.sum()))
    return pad_rows(tokens, np.cumsum(lengths) - lengths, lengths, pad_id=0)


def test_a_ready_mask_changes_no_score(any_folder: Path, padded: PaddedBatch) -> None:
    backend = TorchBackend(any_folder, device="cpu", dtype="float32")
    with torch.inference_mode():
        logits = backend._model(
            input_ids=torch.from_numpy(padded.input_ids),
            attention_mask=torch.from_numpy(padded.attention_mask.astype(np.int64)),
        ).logits

    np.testing.assert_allclose(backend.begin(padded)(), torch.softmax(logits, -1).numpy(), atol=1e-6)


def test_a_padded_batch_begins_without_a_look_at_its_mask(
    any_folder: Path, padded: PaddedBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU each such look waits for all that was queued before: no batch would be prepared while one runs."""
    backend = TorchBackend(any_folder, device="cpu", dtype="float32")
    looks: list[torch.Tensor] = []
    look = torch.Tensor.__bool__

    def spy(tensor: torch.Tensor) -> bool:
        looks.append(tensor)
        return look(tensor)

    monkeypatch.setattr(torch.Tensor, "__bool__", spy)
    backend.begin(padded)()

    assert bool(looks) == (backend._model.config.model_type not in READY_MASK_MODELS)


def test_bfloat16_stays_near_float32(folder: Path) -> None:
    backend = TorchBackend(folder, device="cpu", dtype="bfloat16")

    scores = backend.begin(batch_of(FolderTokenizer(folder, max_length=128).encode(TEXTS)))()

    assert (backend.dtype, scores.dtype) == ("bfloat16", np.float32)
    np.testing.assert_allclose(scores, reference_scores(folder, TEXTS), atol=5e-2)


def test_a_float16_folder_is_scored_in_float32_when_asked(folder: Path, tmp_path: Path) -> None:
    """transformers takes the folder's own dtype when none is named."""
    half = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float16)
    half.save_pretrained(tmp_path)

    assert TorchBackend(tmp_path, device="cpu", dtype="float32")._model.dtype == torch.float32


def test_a_folder_without_classifier_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    """transformers would make the missing weights up and score with them."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    model.bert.save_pretrained(tmp_path)

    with pytest.raises(VerificationError, match="lacks weights of the classifier"):
        TorchBackend(tmp_path, device="cpu", dtype="float32")


def test_loading_says_nothing_on_stderr(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    TorchBackend(folder, device="cpu", dtype="float32")

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("device", "dtype"), [("tpu", "auto"), ("cuda:99", "auto"), ("mps", "auto"), ("cpu", "int8")])
def test_an_unknown_device_or_dtype_is_the_callers_fault(folder: Path, device: str, dtype: str) -> None:
    with pytest.raises(UsageError):
        TorchBackend(folder, device=device, dtype=dtype)


def test_the_dtype_is_that_of_the_device_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may hold an old GPU and a new one. Simulated: torch answers for the current device."""
    current = ["cuda:0"]

    @contextmanager
    def chosen(device: torch.device) -> Iterator[None]:
        before, current[0] = current[0], str(device)
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "device", chosen)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current[0] == "cuda:1")

    dtypes = [choose_dtype(torch.device(name)) for name in ("cuda:0", "cuda:1")]

    assert dtypes == [torch.float16, torch.bfloat16]


def test_memory_that_runs_out_is_told_apart(folder: Path) -> None:
    backend = TorchBackend(folder, device="cpu", dtype="float32")
    rows = 2**40  # a view of one number: the first copy of it needs terabytes
    batch = PaddedBatch(np.broadcast_to(np.int64(1), (rows, 2)), np.broadcast_to(np.int64(2), (rows,)))

    with pytest.raises(DeviceFullError):
        backend.begin(batch)()


def test_tokens_are_those_of_transformers(folder: Path) -> None:
    encodings = FolderTokenizer(folder, max_length=128).encode(TEXTS)

    expected = AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]
    assert [row.tolist() for row in np.split(encodings.token_ids, encodings.starts[1:])] == expected
    assert not encodings.truncated.any()


def test_a_long_text_loses_its_end_but_keeps_its_special_tokens(folder: Path) -> None:
    tokenizer = FolderTokenizer(folder, max_length=6)

    encodings = tokenizer.encode(["the the the the", "the the the the the", "the"])

    assert encodings.lengths.tolist() == [6, 6, 3]
    assert encodings.truncated.tolist() == [False, True, False]
    first, second, _ = np.split(encodings.token_ids, encodings.starts[1:])
    assert first.tolist() == second.tolist()


def test_padding_and_truncation_of_the_folder_are_overruled(folder: Path, tmp_path: Path) -> None:
    """MiniLM's tokenizer.json pads every row to 128 tokens."""
    saved = json.loads((folder / "tokenizer.json").read_bytes())
    saved["padding"] = {
        "strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    saved["truncation"] = {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())

    encodings = FolderTokenizer(tmp_path, max_length=128).encode(TEXTS)

    assert encodings.token_ids.tolist() == FolderTokenizer(folder, max_length=128).encode(TEXTS).token_ids.tolist()


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"tokenizer\.json"):
        FolderTokenizer(tmp_path, max_length=8)


def test_fake_scores_depend_on_the_text_alone() -> None:
    backend, tokenizer = FakeBackend(label_count=3), FakeTokenizer(max_length=16)

    together = backend.begin(batch_of(tokenizer.encode([*TEXTS, "x" * 500])))()
    alone = backend.begin(batch_of(tokenizer.encode([TEXTS[1]])))()

    np.testing.assert_array_equal(together[1], alone[0])
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-6)
    assert len(np.unique(together, axis=0)) == 5
    assert tokenizer.encode([*TEXTS, "x" * 500]).truncated.tolist() == [False, False, False, False, True]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-3), ("auto", 5e-2)])
def test_cuda_agrees_with_the_cpu_with_two_batches_in_flight(folder: Path, dtype: str, atol: float) -> None:
    backend = TorchBackend(folder, device="cuda", dtype=dtype)
    tokenizer = FolderTokenizer(folder, max_length=128)
    reference = reference_scores(folder, TEXTS)

    for _ in range(4):
        running = [backend.begin(batch_of(tokenizer.encode(texts))) for texts in (TEXTS[:2], TEXTS[2:])]
        scores = np.concatenate([wait() for wait in running])
        np.testing.assert_allclose(scores, reference, atol=atol)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_padded_batch_begins_while_another_one_runs(folder: Path, padded: PaddedBatch) -> None:
    backend = TorchBackend(folder, device="cuda")
    expected = backend.begin(padded)()

    torch.cuda.set_sync_debug_mode("error")
    try:
        running = [backend.begin(padded) for _ in range(2)]
    finally:
        torch.cuda.set_sync_debug_mode("default")

    for wait in running:
        np.testing.assert_allclose(wait(), expected, atol=1e-3)
