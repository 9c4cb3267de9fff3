"""A checkpoint that was trained elsewhere, from the command line to a worker's scores."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from scorequeue.errors import ExitCode
from scorequeue.registry import Registry
from tests.tiny import ARCHITECTURES, make_tiny_base
from training.cli import root as cli
from training.importing import Imported, import_checkpoint
from training.quiet import quiet_libraries
from worker.device.loading import load_model

LABELS = ("calm", "glad", "cross")
SHORT = ["The dog slept.", "Which letter did the teacher read?", "She told himself a story about the children."]
LONG = " ".join(SHORT * 3)
TOO_LONG = " ".join(SHORT * 30)


def edit(file: Path, **values: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    kept = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))


def make_source(folder: Path, *, architecture: str = "bert", **config: Any) -> Path:
    """An untrained classifier with three named labels, and these keys of its config.json changed."""
    with quiet_libraries():
        make_tiny_base(folder, labels=3, architecture=architecture)
    edit(folder / "config.json", **({"id2label": dict(enumerate(LABELS)), "label2id": None} | config))
    return folder


def reference(folder: Path, texts: list[str], *, max_length: int) -> npt.NDArray[np.float32]:
    """What transformers says of the original folder, each text by itself: (texts, labels)."""
    with quiet_libraries():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        rows = [
            torch.softmax(
                model(**tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")).logits[0], -1
            )
            for text in texts
        ]
    scores: npt.NDArray[np.float32] = torch.stack(rows).numpy()
    return scores


def serve(registry: Path, version: str, texts: list[str], *, backend: str) -> npt.NDArray[np.float32]:
    """What a worker says, all texts in one batch: (texts, labels)."""
    model = load_model(
        Registry(registry), version, backend=backend, device="cpu", dtype="float32", cache_dir=registry / "cache"
    )
    assert model.labels == LABELS
    return model.score_now(texts)


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """The real command without a process of its own: importing torch takes seconds."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments: str | Path, registry: Path = tmp_path / "registry") -> tuple[int, str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["training", "import", *map(str, arguments), "--registry", str(registry)])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Imported]]:
    """A folder of sources, a registry, and a version in it of every architecture."""
    home = tmp_path_factory.mktemp("import")
    registry = home / "registry"
    versions = {
        name: import_checkpoint(str(make_source(home / name, architecture=name)), registry=registry)
        for name in ARCHITECTURES
    }
    return home, registry, versions


@pytest.mark.parametrize("backend", ["torch", "openvino"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_worker_scores_an_import_as_transformers_scores_the_original(
    imported: tuple[Path, Path, dict[str, Imported]], architecture: str, backend: str
) -> None:
    """Short rows, rows longer than a window of attention, and rows that are cut; golden sentences pass on the way."""
    home, registry, versions = imported
    texts = [*SHORT, LONG, TOO_LONG]

    scores = serve(registry, versions[architecture].version, texts, backend=backend)

    expected = reference(home / architecture, texts, max_length=128)
    assert np.ptp(expected[:, 0]) > 0.01, "a model whose scores are all alike shows nothing"
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_row_above_the_limit_is_marked_as_truncated(
    imported: tuple[Path, Path, dict[str, Imported]], architecture: str
) -> None:
    _, registry, versions = imported
    version = versions[architecture]
    assert version.max_length == 128  # also of RoBERTa, which has 130 positions and uses 128

    model = load_model(Registry(registry), version.version, backend="torch", device="cpu", dtype="float32")
    encodings = model.tokenizer.encode([SHORT[0], LONG, TOO_LONG])

    assert encodings.truncated.tolist() == [False, False, True]
    assert encodings.lengths[2] == 128


def test_labels_without_names_of_their_own_are_kept(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Most two-label checkpoints of the hub; transformers writes no label map for them, and workers need one."""
    source = make_tiny_base(tmp_path / "source")

    code, version, told = command(source)

    assert code == ExitCode.DONE, told
    manifest = Registry(tmp_path / "registry").verify(version.strip())
    assert manifest.labels == ("LABEL_0", "LABEL_1")


def test_the_manifest_tells_where_a_version_came_from(imported: tuple[Path, Path, dict[str, Imported]]) -> None:
    home, registry, versions = imported
    store = Registry(registry)

    manifest = store.verify(versions["bert"].version)

    assert manifest.base_model == str(home / "bert")
    assert (manifest.labels, manifest.max_length) == (LABELS, 128)
    assert (manifest.parent, manifest.metrics) == (None, {})
    assert {"scorequeue", "torch", "transformers", "tokenizers", "safetensors"} == set(manifest.packages)
    assert store.current() == versions["bert"].version
    assert {one.current for one in versions.values()} == {store.current()}


def test_golden_sentences_cover_long_rows(imported: tuple[Path, Path, dict[str, Imported]]) -> None:
    """Windows of attention differ from full attention in long rows alone."""
    _, registry, versions = imported
    store = Registry(registry)
    version = versions["modernbert"].version
    tokenizer = AutoTokenizer.from_pretrained(store.path(version))

    lengths = [len(tokenizer(golden.text).input_ids) for golden in store.manifest(version).golden]

    assert len(lengths) == 19
    assert max(lengths) >= 200
    assert sum(50 <= length < 200 for length in lengths) >= 2


def test_import_prints_the_version_alone_and_says_what_is_current(tmp_path: Path) -> None:
    source = make_source(tmp_path / "mine")

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "training.cli", "import", "mine", *options],
            cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=110,
        )  # fmt: skip

    first, second, quiet = run(), run("--max-length", "40"), run("--quiet")

    store = Registry(tmp_path / ".scorequeue/registry")
    versions = [done.stdout.strip() for done in (first, second, quiet)]
    assert [done.returncode for done in (first, second, quiet)] == [ExitCode.DONE] * 3, first.stderr
    assert store.versions() == versions
    assert store.current() == versions[0]
    assert "3 labels (calm, glad, cross), at most 128 tokens" in first.stderr
    assert "not promoted" not in first.stderr
    assert f"not promoted: new jobs stay on {versions[0]}" in second.stderr
    assert f"producer submit --model-version {versions[1]}" in second.stderr
    assert quiet.stderr == ""
    assert store.manifest(versions[1]).max_length == 40
    assert store.manifest(versions[1]).base_model == source.name


def test_a_sharded_float16_source_becomes_one_float32_file(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "source")
    with quiet_libraries():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float16)
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="10KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1

    version = import_checkpoint(str(folder), registry=tmp_path / "registry").version

    store = Registry(tmp_path / "registry")
    names = store.verify(version).files
    assert [name for name in names if "safetensors" in name] == ["model.safetensors"]
    weights = load_file(store.path(version) / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    expected = reference(folder, SHORT, max_length=128)
    scores = serve(tmp_path / "registry", version, SHORT, backend="torch")
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_padding_cutting_and_code_of_the_source_are_left_behind(tmp_path: Path) -> None:
    """MiniLM's tokenizer.json pads every row to 128 tokens; others cut or pad on the left."""
    folder = make_source(tmp_path / "source", auto_map={"AutoConfig": "code.Config"})
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    tokenizer["truncation"] = {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    edit(folder / "tokenizer_config.json", padding_side="left", truncation_side="left")

    version = import_checkpoint(str(folder), registry=tmp_path / "registry").version

    published = Registry(tmp_path / "registry").path(version)
    saved = json.loads((published / "tokenizer.json").read_text())
    assert (saved["padding"], saved["truncation"]) == (None, None)
    loaded = AutoTokenizer.from_pretrained(published)
    assert (loaded.padding_side, loaded.truncation_side) == ("right", "right")
    assert "auto_map" not in json.loads((published / "config.json").read_text())


def test_a_hub_id_is_loaded_from_the_hubs_cache(tmp_path: Path) -> None:
    """What the hub gave once needs no network; the hub itself is not there in tests."""
    cache = tmp_path / "hub" / "models--owner--name"
    make_source(cache / "snapshots" / ("a" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)

    done = subprocess.run(
        [sys.executable, "-m", "training.cli", "import", "owner/name"],
        cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}, capture_output=True,
        text=True, timeout=110,
    )  # fmt: skip

    assert done.returncode == ExitCode.DONE, done.stderr
    assert Registry(tmp_path / ".scorequeue/registry").manifest(done.stdout.strip()).base_model == "owner/name"


def test_an_unreachable_hub_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training.cli", "import", "owner/name"],
        cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}, capture_output=True,
        text=True, timeout=110,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert "owner/name is no folder here and cannot be had from the hub: HF_HUB_OFFLINE is set" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", ["[]", "3", "{", "[" * 100_000], ids=["list", "number", "half", "deep"])
def test_a_config_that_is_no_json_object_is_named(
    content: str, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    source = make_source(tmp_path / "source")
    (source / "config.json").write_text(content)

    code, out, err = command(source)

    assert (code, out) == (ExitCode.USAGE, "")
    assert err.startswith(f"Error: {source}/config.json cannot be read: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"id2label": {"0": "score"}}, "one output (regression or a relevance score)"),
        ({"id2label": None, "num_labels": 1}, "one output"),
        ({"problem_type": "regression"}, "one output"),
        ({"problem_type": "multi_label_classification"}, "it is multi-label"),
        ({"function_to_apply": "sigmoid"}, "made with sigmoid"),
        ({"sentence_transformers": {"version": "5.0"}}, "it is a cross encoder"),
        ({"sbert_ce_default_activation_function": None, "finetuning_task": "qqp"}, "pairs of texts"),
        ({"id2label": {"0": "entailment", "1": "neutral", "2": "contradiction"}}, "pairs of texts"),
        ({"id2label": {"0": "yes", "1": "no", "2": "yes"}}, "labels should be distinct and not empty"),
        ({"id2label": {"0": "yes", "1": "no", "2": ""}}, "labels should be distinct and not empty"),
        ({"id2label": {"0": "yes", "1": "no", "3": "maybe"}}, "id2label should name the outputs 0 to 2"),
        ({"id2label": {"0": "yes", "1": "no", "2": "\x1b[2J"}}, "has control characters; mend id2label"),
        ({"architectures": [3]}, "a value of another type than expected"),
        ({"id2label": None, "num_labels": "many"}, "a value of another type than expected"),
        ({"id2label": ["yes", "no", "maybe"]}, "id2label is no map"),
        ({"id2label": {"0": "yes", "1": "no"}}, "weights are missing or of another shape (classifier.bias"),
        ({"architectures": ["BertForTokenClassification"]}, "names BertForTokenClassification"),
        ({"quantization_config": {"quant_method": "gptq"}}, "its weights are quantized"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}, "it needs Python code that comes with it"),
        ({"model_type": "mine"}, "(The checkpoint you are trying to load has model type `mine`"),
    ],
)
def test_a_config_that_cannot_be_served_is_refused(
    config: dict[str, Any], reason: str, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    source = make_source(tmp_path / "source", **config)

    code, out, err = command(source)

    assert (code, out) == (ExitCode.USAGE, ""), err
    assert err.startswith(f"Error: {source} cannot be imported: ")
    assert reason in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "registry").exists()


def only_pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def without_classifier(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in weights.items() if "classifier" not in key}, folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip


def with_nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut_off(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5000)


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def with_a_slow_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def with_code_for_its_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    edit(folder / "tokenizer_config.json", tokenizer_class="Mine", auto_map={"AutoTokenizer": ["code.Mine", None]})


def with_another_tokenizer(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=100)
    weights = load_file(folder / "model.safetensors")
    key = "bert.embeddings.word_embeddings.weight"
    save_file(weights | {key: weights[key][:100].clone()}, folder / "model.safetensors", metadata={"format": "pt"})


def without_padding(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    edit(folder / "tokenizer_config.json", pad_token=None)


def as_a_cross_encoder(folder: Path) -> None:
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')


def as_an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def with_broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (only_pickled, "has pytorch_model.bin (pickle can run code); safetensors only"),
        (without_classifier, "no whole classifier: weights are missing or of another shape (classifier.bias, ...)"),
        (with_nan, "its scores are not finite"),
        (cut_off, "does not load in transformers"),
        (without_tokenizer, "no fast tokenizer (tokenizer.json)"),
        (with_a_slow_tokenizer, "no fast tokenizer (tokenizer.json) can be loaded"),
        (with_code_for_its_tokenizer, "no fast tokenizer (tokenizer.json) can be loaded"),
        (with_another_tokenizer, "its tokenizer has ids up to 208, its model only 100 embeddings"),
        (without_padding, "it has no padding token"),
        (as_a_cross_encoder, "it is a cross encoder"),
        (as_an_adapter, "it is a PEFT adapter"),
        (without_config, "has no config.json; expected a transformers folder"),
        (with_broken_config, "config.json cannot be read"),
        (emptied, "expected a transformers folder or a hub id like owner/name"),
    ],
)
def test_files_that_cannot_be_served_are_refused(
    damage: Callable[[Path], None], reason: str, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    source = make_source(tmp_path / "source")
    damage(source)

    code, out, err = command(source)

    assert (code, out) == (ExitCode.USAGE, ""), err
    assert reason in err
    assert err.startswith("Error: ")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_a_limit_above_the_models_is_refused(
    architecture: str, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    source = make_source(tmp_path / "source", architecture=architecture)

    code, _, err = command(source, "--max-length", "129")

    assert code == ExitCode.USAGE
    assert err == f"Error: --max-length 129 is above the 128 tokens that {source} reads\n"


def test_a_model_whose_scores_depend_on_padding_is_refused(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers would load it, fail its golden sentences and serve nothing."""
    from transformers import BertForSequenceClassification

    forward = BertForSequenceClassification.forward
    monkeypatch.setattr(
        BertForSequenceClassification,
        "forward",
        lambda self, input_ids, attention_mask=None, **others: forward(self, input_ids, **others),
    )
    source = make_source(tmp_path / "source")

    code, _, err = command(source)

    assert code == ExitCode.USAGE
    assert "workers score padded batches" in err
    assert not (tmp_path / "registry").exists()
