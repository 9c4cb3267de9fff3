"""A fit from the command line to a version that others can load."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from transformers import pipeline

import scorequeue
from scorequeue.errors import ExitCode
from scorequeue.registry import Registry
from tests.tiny import make_tiny_base
from training import sample, sources
from training.predict import Predictor
from training.quiet import quiet_libraries

DEMO = Path(__file__).parents[2] / "deploy" / "demo" / "sentences.txt"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "tiny-bert")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slice of the made sentences in CoLA's layout, with quotes inside of sentences."""
    folder = tmp_path_factory.mktemp("dataset")
    train, dev = sample.make(seed=0, train_pairs=120, dev_pairs=30)
    for name, rows in ((sources.TRAIN_FILE, train), (sources.DEV_FILE, dev)):
        lines = [f'made\t{label}\t{"" if label else "*"}\t"{text}" he said.\n' for text, label in rows]
        (folder / name).write_text("".join(lines), "utf-8")
    return folder


def run(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training.cli", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.fixture(scope="module")
def fitted(
    base: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    cwd = tmp_path_factory.mktemp("fit")
    done = run(
        *("fit", "--dataset", dataset, "--base-model", base),
        *("--epochs", "2", "--lr", "1e-3", "--max-length", "96"),
        cwd=cwd,
    )
    return cwd, done


def test_fit_prints_the_new_version_alone(fitted: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    cwd, done = fitted

    assert done.returncode == ExitCode.DONE, done.stderr
    assert done.stdout == f"{Registry(cwd / '.scorequeue/registry').current()}\n"
    assert re.search(r"MCC -?\d\.\d{3}, accuracy \d\.\d{3}.*\d+ rows/s", done.stderr.splitlines()[-1])


def test_fit_lets_no_other_library_talk(fitted: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = fitted

    ours = re.compile(r"^\d{4}-\d\d-\d\dT\S+ info +.* action=\w+|^validation MCC")
    assert [line for line in done.stderr.splitlines() if not ours.search(line)] == []


def test_the_manifest_tells_how_the_version_came_to_be(fitted: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    cwd, _ = fitted
    registry = Registry(cwd / ".scorequeue/registry")

    manifest = registry.verify(registry.resolve(None))

    assert (manifest.labels, manifest.max_length, manifest.seed) == (("unacceptable", "acceptable"), 96, 0)
    assert manifest.dataset["train_rows"] == 240
    assert manifest.training_config["lr"] == 1e-3
    assert set(manifest.metrics) == {"mcc", "mcc_low", "mcc_high", "accuracy", "f1", "calibration_error", "loss"}
    assert manifest.dataset["evaluated_rows"] == manifest.dataset["dev_rows"] == 60
    assert len(manifest.golden) == 16
    assert "torch" in manifest.packages


def test_pipeline_and_predictor_give_the_same_scores(fitted: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """The folder is plain transformers: what we serve is what anyone else loads."""
    cwd, _ = fitted
    registry = Registry(cwd / ".scorequeue/registry")
    version = registry.resolve(None)
    folder, golden = registry.path(version), registry.manifest(version).golden
    texts = [sentence.text for sentence in golden]
    with quiet_libraries():
        classify = pipeline("text-classification", model=str(folder), top_k=None)

    theirs = [{entry["label"]: entry["score"] for entry in row} for row in classify(texts)]
    ours = [{entry["label"]: entry["score"] for entry in row} for row in Predictor(folder).predict(texts)]

    for row, mine, sentence in zip(theirs, ours, golden, strict=True):
        assert mine == pytest.approx(row, abs=1e-5)
        assert list(sentence.scores) == pytest.approx([mine["unacceptable"], mine["acceptable"]], abs=1e-5)


def test_curves_and_best_weights_stay_in_the_runs_folder(
    fitted: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    cwd, _ = fitted
    (run_folder,) = (cwd / "runs").iterdir()

    assert list(run_folder.glob("events.out.tfevents.*"))
    assert len(list((run_folder / "checkpoints").glob("best-*.ckpt"))) == 1
    with (run_folder / "csv" / "metrics.csv").open() as file:
        figures = [row["val_mcc"] for row in csv.DictReader(file) if row["val_mcc"]]
    assert len(figures) == 2


def test_the_same_seed_gives_the_same_weights(
    fitted: tuple[Path, subprocess.CompletedProcess[str]], base: Path, dataset: Path, tmp_path: Path
) -> None:
    cwd, _ = fitted
    first = Registry(cwd / ".scorequeue/registry")

    again = run(
        *("fit", "--dataset", dataset, "--base-model", base),
        *("--logger", "csv", "--quiet", "--registry", tmp_path / "r"),
        cwd=tmp_path,
        SCOREQUEUE_FIT_EPOCHS="2",
        SCOREQUEUE_FIT_LR="1e-3",
        SCOREQUEUE_FIT_MAX_LENGTH="96",
    )

    assert again.returncode == ExitCode.DONE, again.stderr
    assert again.stderr == ""
    before, after = (store.manifest(store.resolve(None)) for store in (first, Registry(tmp_path / "r")))
    assert after.metrics == pytest.approx(before.metrics, abs=1e-5)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_each_precision_trains_on_any_machine(base: Path, dataset: Path, tmp_path: Path, precision: str) -> None:
    """``auto`` takes another one on another CPU: what is never run here must not fail there."""
    done = run(
        *("fit", "--dataset", dataset, "--base-model", base),
        *("--precision", precision, "--epochs", "1"),
        cwd=tmp_path,
    )

    assert done.returncode == ExitCode.DONE, done.stderr
    assert f"precision={precision}" in done.stderr


def test_fast_dev_run_publishes_nothing_and_says_so(base: Path, tmp_path: Path) -> None:
    done = run("fit", "--dataset", "sample", "--base-model", base, "--fast-dev-run", cwd=tmp_path)

    assert done.returncode == ExitCode.DONE, done.stderr
    assert done.stdout == ""
    assert "nothing was published" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "no-such-folder"], "no dataset 'no-such-folder'"),
        (["--dataset", "sample", "--base-model", "bert-huge"], "no base model 'bert-huge'"),
        (["--dataset", "sample", "--epochs", "0"], "--epochs"),
        (["--dataset", "cola"], "cola cannot be had from the hub: HF_HUB_OFFLINE is set"),
        (["--dataset", "sample", "--base-model", "bert-tiny"], "HF_HUB_OFFLINE is set and it is not in the cache"),
        (["--dataset", "sample", "--frobnicate"], "No such option"),
    ],
)
def test_a_wrong_argument_is_one_line_without_a_trace(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run("fit", *arguments, cwd=tmp_path, HF_HOME=str(tmp_path / "hub"))

    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 or done.stderr.startswith("Usage:")


def test_list_and_show_tell_what_is_published(fitted: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    cwd, done = fitted
    version = done.stdout.strip()

    listed = run("list", "--json", cwd=cwd)
    shown = run("show", version, "--json", cwd=cwd)

    (row,) = json.loads(listed.stdout)
    assert (row["version"], row["is_current"]) == (version, True)
    assert json.loads(shown.stdout)["version"] == version


def test_show_of_nothing_says_what_to_do(tmp_path: Path) -> None:
    done = run("show", cwd=tmp_path)

    assert done.returncode == ExitCode.NO_SUCH_VERSION
    assert "run `training fit`" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_does_not_load_torch() -> None:
    code = "import sys, training.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], timeout=30)

    assert done.returncode == 0


def test_what_the_page_shows_from_python_runs(base: Path, dataset: Path, tmp_path: Path) -> None:
    """A trainer of one's own: the page's block as it stands, but for the model and the data, which are small here."""
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    (block,) = re.findall(r"## From Python.*?```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "page.py").write_text(
        block.replace('"minilm-l6"', repr(str(base))).replace('"sample"', repr(str(dataset)))
    )

    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=110, env=os.environ
    )

    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"\[\{'label': '\w+', 'score': 0\.\d+\}, \{'label': '\w+', 'score': .*\}\]", done.stdout.splitlines()[-1]
    )
    assert len(list(tmp_path.glob("lightning_logs/version_0/checkpoints/*.ckpt"))) == 1
    assert list(tmp_path.glob("lightning_logs/version_0/events.out.tfevents.*"))


def test_fit_runs_from_a_source_tree_that_is_not_installed(base: Path, dataset: Path, tmp_path: Path) -> None:
    """Without our own package metadata; what publishing needs must not be missed after the last epoch."""
    site = Path(transformers.__file__).parents[1]
    (tmp_path / "site").mkdir()
    for entry in site.iterdir():
        if "scorequeue" not in entry.name:
            (tmp_path / "site" / entry.name).symlink_to(entry)
    source = Path(__file__).parents[2]

    done = subprocess.run(
        # -S: the environment's own site-packages stay out
        [
            sys.executable,
            "-S",
            "-m",
            "training.cli",
            "fit",
            "--dataset",
            dataset,
            "--base-model",
            base,
            "--epochs",
            "1",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{tmp_path / 'site'}"},
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert done.returncode == ExitCode.DONE, done.stderr
    manifest = Registry(tmp_path / ".scorequeue/registry").manifest(done.stdout.strip())
    assert manifest.packages["scorequeue"] == scorequeue.__version__


def test_registry_that_cannot_be_written_is_found_before_the_first_epoch(
    base: Path, dataset: Path, tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    (tmp_path / "no-folder").mkdir()
    (tmp_path / "no-folder" / "versions").write_text("")
    registries = {tmp_path / "no-folder": "Not a directory", small_disk(4 * 2**20) / "registry": "4 MB are free"}

    for registry, why in registries.items():
        done = run("fit", "--dataset", dataset, "--base-model", base, "--registry", registry, cwd=tmp_path)

        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: cannot publish")
        assert why in line
        assert done.returncode == ExitCode.UNEXPECTED
    assert not (tmp_path / ".scorequeue").exists(), "no run was begun"
