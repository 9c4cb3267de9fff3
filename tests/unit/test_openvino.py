from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from scorequeue.errors import ConversionError, MissingExtraError, UsageError, VerificationError
from tests.tiny import ARCHITECTURES, make_tiny_base
from worker.backends import DeviceFullError, PaddedBatch, Scores, convert, openvino
from worker.backends.openvino import OpenVinoBackend
from worker.backends.torch import TorchBackend
from worker.device import choosing
from worker.device.choosing import choose_backend, open_backend

SHAPES = [(1, 1), (1, 7), (33, 5), (4, 40), (7, 120)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("tiny"), labels=3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """A cache that holds the tiny model."""
    path = tmp_path_factory.mktemp("cache")
    convert_to(path, folder)
    return path


def convert_to(cache: Path, folder: Path) -> Path:
    assert convert.converted(folder, cache, max_length=128) is not None
    return cache / "openvino" / convert.fingerprint(folder)


def batch(rows: int, width: int, *, pad_id: int = 0, seed: int = 0) -> PaddedBatch:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, width + 1, rows)
    lengths[0] = width
    input_ids = random.integers(5, 90, (rows, width))
    input_ids[np.arange(width) >= lengths[:, None]] = pad_id
    return PaddedBatch(input_ids, lengths)


def reference(folder: Path, padded: PaddedBatch) -> Scores:
    """What transformers itself says, in float32."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        mask = torch.from_numpy(padded.attention_mask.astype(np.int64))
        logits = model(torch.from_numpy(padded.input_ids), attention_mask=mask).logits
    scores: Scores = torch.softmax(logits, -1).numpy()  # (rows, labels)
    return scores


def no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path, max_length: int) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(convert, "_traced", refuse)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_backends_agree_with_transformers_on_every_architecture(tmp_path: Path, architecture: str) -> None:
    folder = make_tiny_base(tmp_path / "model", labels=3, architecture=architecture)
    pad_id = int(AutoConfig.from_pretrained(folder).pad_token_id)
    exact = OpenVinoBackend(folder, dtype="float32", cache_dir=tmp_path / "cache", max_length=128)
    torch_backend = TorchBackend(folder, device="cpu", dtype="float32")

    for rows, width in SHAPES:
        padded = batch(rows, width, pad_id=pad_id)
        expected = reference(folder, padded)
        assert np.ptp(expected[:, 0]) > 0.01 or rows == 1, "a model whose scores are all alike shows nothing"
        np.testing.assert_allclose(exact.begin(padded)(), expected, atol=1e-5)
        np.testing.assert_allclose(torch_backend.begin(padded)(), expected, atol=1e-5)


def test_batches_in_flight_do_not_mix(folder: Path, cache: Path) -> None:
    backend = OpenVinoBackend(folder, dtype="float32", cache_dir=cache, max_length=128)
    batches = [batch(rows, width, seed=rows) for rows, width in SHAPES]

    for first, second in itertools.pairwise(batches):
        running = [backend.begin(first), backend.begin(second)]
        for padded, wait in zip((first, second), running, strict=True):
            np.testing.assert_allclose(wait(), reference(folder, padded), atol=1e-5)


def test_batches_beside_those_in_flight_disturb_none(folder: Path, cache: Path) -> None:
    """Looking for a guilty row runs any number of batches while others are still in flight."""
    backend = OpenVinoBackend(folder, dtype="float32", cache_dir=cache, max_length=128)
    waiting = [batch(9, 30, seed=seed) for seed in range(backend.depth)]
    running = [backend.begin(padded) for padded in waiting]

    for seed in range(3 * backend.depth):
        padded = batch(2, 5, seed=seed)
        np.testing.assert_allclose(backend.begin(padded)(), reference(folder, padded), atol=1e-5)

    for padded, wait in zip(waiting, running, strict=True):
        np.testing.assert_allclose(wait(), reference(folder, padded), atol=1e-5)


def test_scores_stay_when_later_batches_run(folder: Path, cache: Path) -> None:
    """The scores are a copy: a request's own memory is used again."""
    backend = OpenVinoBackend(folder, dtype="float32", cache_dir=cache, max_length=128)
    scores = backend.begin(batch(4, 9))()
    kept = scores.copy()

    for seed in range(2 * backend.depth + 2):
        backend.begin(batch(4, 9, seed=seed + 1))()

    np.testing.assert_array_equal(scores, kept)


def test_a_model_is_converted_once(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_conversion(monkeypatch)

    backend = OpenVinoBackend(folder, dtype="float32", cache_dir=cache, max_length=128)
    assert backend.begin(batch(2, 5))().shape == (2, 3)


def test_a_process_that_finds_the_model_converted_loads_no_torch(folder: Path, cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from worker.device.choosing import open_backend\n"
        f"b = open_backend(Path({str(folder)!r}), backend='openvino', device='cpu', dtype='float32',"
        f" cache_dir=Path({str(cache)!r}), max_length=128)\n"
        "print(b.name, [name for name in ('torch', 'transformers', 'openvino_telemetry') if sys.modules.get(name)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split("\n")[0] == "openvino []"


def test_other_weights_are_another_model(folder: Path, cache: Path, tmp_path: Path) -> None:
    other = make_tiny_base(tmp_path / "other", labels=3, seed=1)

    assert convert.fingerprint(other) != convert.fingerprint(folder)
    assert convert.fingerprint(make_tiny_base(tmp_path / "same", labels=3)) == convert.fingerprint(folder)


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "sha256"])
def test_a_damaged_model_is_converted_again(folder: Path, tmp_path: Path, name: str) -> None:
    kept = convert_to(tmp_path, folder)
    whole = (kept / "model.bin").read_bytes()
    damaged = bytearray((kept / name).read_bytes())
    damaged[len(damaged) // 2] ^= 0x81  # no UTF-8 any more
    (kept / name).write_bytes(damaged)

    again = convert_to(tmp_path, folder)

    assert again == kept
    assert (again / "model.bin").read_bytes() == whole
    assert sorted(path.name for path in (tmp_path / "openvino").iterdir()) == [kept.name]


def test_a_cache_that_cannot_be_written_costs_a_conversion_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that starts a thousand times must not leave a thousand models in /tmp."""
    (tmp_path / "cache").write_text("a file, not a folder")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    backend = OpenVinoBackend(folder, dtype="float32", cache_dir=tmp_path / "cache", max_length=128)

    assert not list((tmp_path / "temporary").iterdir())
    for seed in range(2 * backend.depth):  # each stream, without the files
        padded = batch(3, 4, seed=seed)
        np.testing.assert_allclose(backend.begin(padded)(), reference(folder, padded), atol=1e-5)


def test_models_of_old_versions_leave_the_disk(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age in range(convert.KEPT + 2):
        old = cache / "openvino" / f"{age:032x}"
        old.mkdir()
        os.utime(old, (time.time() - 1000 - age,) * 2)
    (cache / "openvino" / convert.fingerprint(folder)).rename(cache / "openvino" / "f")

    newest = convert_to(cache, folder)

    left = sorted(path.name for path in (cache / "openvino").iterdir())
    assert newest.name in left
    assert len(left) == convert.KEPT


def test_a_folder_without_classifier_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    model.bert.save_pretrained(tmp_path / "base")

    with pytest.raises(VerificationError, match="lacks weights of the classifier"):
        OpenVinoBackend(tmp_path / "base", cache_dir=tmp_path / "cache", max_length=128)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_dtype_that_openvino_does_not_compute_in_is_the_callers_fault(folder: Path, cache: Path, dtype: str) -> None:
    with pytest.raises(UsageError, match="float32 or bfloat16"):
        OpenVinoBackend(folder, dtype=dtype, cache_dir=cache, max_length=128)


@pytest.mark.parametrize(
    ("asked", "chosen", "why"),
    [
        ({}, "openvino", "faster"),
        ({"device": "cpu"}, "openvino", "faster"),
        ({"device": "cuda:1"}, "torch", "CUDA device was asked for"),
        ({"dtype": "float16"}, "torch", "no float16"),
        ({"backend": "torch"}, "torch", "asked for"),
        ({"backend": "openvino"}, "openvino", "asked for"),
    ],
)
def test_auto_says_what_it_takes_and_why(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], chosen: str, why: str
) -> None:
    monkeypatch.setattr(choosing, "has_nvidia_driver", lambda: False)

    backend, reason = choose_backend(**asked)

    assert backend == chosen
    assert why in reason


def test_a_gpu_goes_first_where_torch_sees_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_backend()[0] == "torch"
    assert choose_backend(device="cpu")[0] == "openvino"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_backend()[0] == "openvino"


def test_without_openvino_auto_takes_torch_and_openvino_names_the_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choosing, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    assert choose_backend()[0] == "torch"
    with pytest.raises(MissingExtraError, match="pip install"):
        choose_backend(backend="openvino")


def test_openvino_on_a_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match="cuda:0"):
        choose_backend(backend="openvino", device="cuda:0")


def test_an_architecture_that_openvino_does_not_know_runs_in_torch_unless_openvino_was_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="worker.device.choosing")

    def fail(folder: Path, max_length: int) -> None:
        raise ConversionError("no such operation")

    monkeypatch.setattr(choosing, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(convert, "_traced", fail)

    auto = open_backend(folder, backend="auto", device="auto", dtype="float32", cache_dir=tmp_path, max_length=128)
    assert auto.name == "torch"
    chosen = vars(caplog.records[-1])["scorequeue_fields"]
    assert chosen["action"] == "backend_chosen"
    assert "no such operation" in chosen["why"]
    with pytest.raises(VerificationError, match="no such operation"):
        open_backend(folder, backend="openvino", device="auto", dtype="float32", cache_dir=tmp_path, max_length=128)


def test_the_converter_says_why_it_failed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")

    with pytest.raises(VerificationError, match="does not load in transformers"):
        convert_to(tmp_path / "cache", tmp_path / "model")


def test_running_out_of_memory_is_told_from_other_failures(folder: Path, cache: Path) -> None:
    """A batch that is too large is halved; an error taken for that would be tried at half the budget for ever."""
    code = (
        "import resource; from pathlib import Path; import numpy as np\n"
        "from worker.backends import DeviceFullError, PaddedBatch\n"
        "from worker.backends.openvino import OpenVinoBackend\n"
        f"b = OpenVinoBackend(Path({str(folder)!r}), dtype='float32', cache_dir=Path({str(cache)!r}), max_length=128)\n"
        "rows = PaddedBatch(np.full((20_000, 120), 7), np.full(20_000, 120)); rows.attention_mask\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**27,) * 2)\n"
        "try: b.begin(rows)()\n"
        "except DeviceFullError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "allocate" in done.stdout


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("std::bad_alloc"),
        RuntimeError("Check 'ptr' failed at cpu_memory.cpp:257:\nFailed to allocate 153600000 bytes of memory\n\n"),
        RuntimeError("Could not allocate memory"),
    ],
)
def test_what_openvino_says_of_a_lack_of_memory_is_known(error: RuntimeError | MemoryError) -> None:
    assert isinstance(openvino._told_apart(error), DeviceFullError)


@pytest.mark.parametrize(
    "message",
    [
        "Can't allocate registers for a snippet: not enough registers",
        "Failed to allocate required number of vector registers",
        "has uninitialized memory block.",
        "Cannot allocate memory for incompatible descriptors.",
    ],
)
def test_a_bug_that_speaks_of_memory_is_no_lack_of_it(message: str) -> None:
    error = RuntimeError(message)

    assert openvino._told_apart(error) is error
