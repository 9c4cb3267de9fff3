"""What a version is worth: the command that judges it, and the rows and the report that it carries along."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from scorequeue.errors import ExitCode
from scorequeue.registry import Registry
from tests.integration.test_training_fit import run
from tests.tiny import make_tiny_base, publish_tiny
from training import sample
from training.cola import DEV_FILE, TRAIN_FILE
from training.evaluate import read_rows
from worker.device.loading import load_model

FIGURES = {"mcc", "mcc_low", "mcc_high", "accuracy", "f1", "calibration_error", "loss"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CoLA's layout with two sources; one sentence is no one's friend."""
    folder = tmp_path_factory.mktemp("dataset")
    train, dev = sample.make(seed=0, train_pairs=60, dev_pairs=40)
    for name, rows in ((TRAIN_FILE, train), (DEV_FILE, [*dev, ("<script>alert(1)</script> he said.", 0)])):
        lines = [
            f"{'books' if number % 3 else 'talks'}\t{label}\t\t{text}\n" for number, (text, label) in enumerate(rows)
        ]
        (folder / name).write_text("".join(lines), "utf-8")
    return folder


@pytest.fixture(scope="module")
def fitted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a registry of one fitted version."""
    cwd = tmp_path_factory.mktemp("fit")
    base = make_tiny_base(cwd / "tiny-bert")
    done = run("fit", "--dataset", dataset, "--base-model", base, "--epochs", "2", "--logger", "csv", cwd=cwd)
    assert done.returncode == ExitCode.DONE, done.stderr
    return cwd


def evaluate(cwd: Path, *arguments: str | Path) -> dict[str, object]:
    done = run("evaluate", "current", *arguments, "--json", cwd=cwd)
    assert done.returncode == ExitCode.DONE, done.stderr
    return json.loads(done.stdout)


def test_evaluating_again_gives_the_figures_of_the_manifest(fitted: Path, dataset: Path) -> None:
    """What `list` and the gate read is what the exported folder does, not what the trainer saw in bfloat16."""
    store = Registry(fitted / ".scorequeue/registry")
    manifest = store.verify(store.resolve(None))

    found = evaluate(fitted, "--dataset", dataset)

    assert {name: found[name] for name in FIGURES} == pytest.approx(manifest.metrics, abs=1e-6)
    assert found["rows"] == manifest.dataset["evaluated_rows"] == 81
    assert [one["source"] for one in found["sources"]] == ["books", "talks"]
    assert sum(map(sum, found["confusion"])) == 81
    assert found["version"] == manifest.version


def test_a_version_carries_the_rows_it_was_judged_on(fitted: Path) -> None:
    store = Registry(fitted / ".scorequeue/registry")
    version = store.resolve(None)
    manifest = store.verify(version)

    evaluation = read_rows(store.path(version), labels=manifest.labels)

    assert evaluation is not None
    assert evaluation.figures.summary() == pytest.approx(manifest.metrics, abs=1e-6)
    assert set(evaluation.rows.sources) == {"books", "talks"}
    assert {"evaluation.jsonl", "report.html"} < set(manifest.files)
    assert {sentence.text for sentence in manifest.golden} <= set(evaluation.rows.texts)


def test_a_version_carries_its_report(fitted: Path) -> None:
    store = Registry(fitted / ".scorequeue/registry")
    version = store.resolve(None)
    manifest = store.manifest(version)

    html = (store.path(version) / "report.html").read_text("utf-8")

    for word in (version, f"{manifest.metrics['mcc']:.3f}", "How it learned", "By source", "tiny-bert"):
        assert word in html
    assert manifest.dataset["fingerprint"] in html
    assert "<script" not in html


@pytest.mark.parametrize(("backend", "dtype"), [("torch", "float32"), ("torch", "bfloat16"), ("openvino", "bfloat16")])
def test_a_worker_serves_a_version_with_its_report_and_rows(
    fitted: Path, tmp_path: Path, backend: str, dtype: str
) -> None:
    """What is there for people does not disturb it, and golden sentences decided by a hair pass in bfloat16 too."""
    store = Registry(fitted / ".scorequeue/registry")

    model = load_model(store, store.resolve(None), backend=backend, device="cpu", dtype=dtype, cache_dir=tmp_path)

    assert len(model.golden) == 16


def test_people_get_a_table(fitted: Path, dataset: Path) -> None:
    done = run("evaluate", "current", "--dataset", dataset, cwd=fitted)

    assert done.returncode == ExitCode.DONE, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"\d{8}T\d{6}-\w{6} on dev of .*: 81 sentences", lines[0])
    assert any(re.fullmatch(r"MCC +-?0\.\d{3}  -?\d\.\d{3} to \d\.\d{3}", line) for line in lines)
    assert any(re.fullmatch(r"unacceptable( +\d+){2} +\d\.\d{3}", line) for line in lines)
    assert any(re.match(r"talks +27 .*few rows", line) for line in lines)


def test_another_split_and_a_report_of_it(fitted: Path, dataset: Path, tmp_path: Path) -> None:
    found = evaluate(fitted, "--dataset", dataset, "--split", "train", "--report", tmp_path / "train.html")

    assert (found["split"], found["rows"]) == ("train", 120)
    html = (tmp_path / "train.html").read_text("utf-8")
    assert f"train of {dataset}" in html
    assert f"{found['mcc']:.3f}" in html


def refused(cwd: Path, *arguments: str | Path, code: ExitCode) -> str:
    done: subprocess.CompletedProcess[str] = run("evaluate", *arguments, cwd=cwd)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    (line,) = done.stderr.splitlines()
    return line


def test_a_version_that_is_not_as_published_is_not_judged(dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / ".scorequeue/registry"
    version = publish_tiny(root)
    weights = root / "versions" / version / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")

    line = refused(tmp_path, version, "--dataset", dataset, code=ExitCode.NO_SUCH_VERSION)

    assert "model.safetensors does not have the sha256" in line


def test_other_labels_are_refused_with_both_names(dataset: Path, tmp_path: Path) -> None:
    publish_tiny(tmp_path / ".scorequeue/registry", labels=("negative", "neutral", "positive"))

    line = refused(tmp_path, "current", "--dataset", dataset, code=ExitCode.USAGE)

    assert "unacceptable, acceptable" in line
    assert "negative, neutral, positive" in line


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nothing", "--dataset", "sample"), ExitCode.NO_SUCH_VERSION, "no version 'nothing'"),
        (("current", "--dataset", "nowhere"), ExitCode.USAGE, "no dataset 'nowhere'"),
        (("current", "--dataset", "sample", "--split", "test"), ExitCode.USAGE, "no split test"),
        (("current", "--dataset", "sample", "--report", "no/such/folder.html"), ExitCode.USAGE, "no/such/folder.html"),
    ],
)
def test_what_cannot_be_judged_is_said_in_a_line(
    fitted: Path, arguments: tuple[str, ...], code: ExitCode, words: str
) -> None:
    assert words in refused(fitted, *arguments, code=code)


def test_an_imported_version_is_judged_like_a_fitted_one(fitted: Path, dataset: Path, tmp_path: Path) -> None:
    """A checkpoint from elsewhere gets metrics, rows for the gate, golden sentences of the data and a report."""
    source = Registry(fitted / ".scorequeue/registry")
    version = source.resolve(None)

    done = run("import", source.path(version), "--dataset", dataset, cwd=tmp_path)

    assert done.returncode == ExitCode.DONE, done.stderr
    store = Registry(tmp_path / ".scorequeue/registry")
    manifest = store.verify(done.stdout.strip())
    assert manifest.metrics == pytest.approx(source.manifest(version).metrics, abs=1e-6)
    assert manifest.dataset == {"name": str(dataset), "split": "dev", "evaluated_rows": 81}
    evaluation = read_rows(store.path(manifest.version), labels=manifest.labels)
    assert evaluation is not None
    assert sum(sentence.text in evaluation.rows.texts for sentence in manifest.golden) == 16
    report = (store.path(manifest.version) / "report.html").read_text("utf-8")
    assert f"dev of {dataset}" in report
    assert "How it learned" not in report


def test_an_import_without_a_dataset_has_a_report_too(fitted: Path, tmp_path: Path) -> None:
    source = Registry(fitted / ".scorequeue/registry")

    done = run("import", source.path(source.resolve(None)), cwd=tmp_path)

    assert done.returncode == ExitCode.DONE, done.stderr
    store = Registry(tmp_path / ".scorequeue/registry")
    manifest = store.verify(done.stdout.strip())
    assert manifest.metrics == {}
    assert read_rows(store.path(manifest.version), labels=manifest.labels) is None
    assert "not judged on labelled sentences yet" in (store.path(manifest.version) / "report.html").read_text("utf-8")


def test_a_dataset_with_other_labels_stops_an_import(dataset: Path, tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "three", labels=3)

    done = run("import", base, "--dataset", dataset, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert not (tmp_path / ".scorequeue").exists()
