"""Datasets and models from a hub: the real client libraries against a server that speaks its HTTP API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scorequeue.errors import ExitCode
from scorequeue.registry import Registry
from tests.hub import Hub
from tests.hub_repos import SMALLEST_BERT, add_glue, add_smallest_bert
from tests.tiny import make_tiny_base
from training import sources
from training.cola import to_split
from training.predict import Predictor
from training.sentences import LabelledSentences

TOKEN = "hf_secret"
BASE = ("--dataset", "sample", "--base-model")

COMMANDS = """
import contextlib, io, json, os, sys
from training.cli import root as cli
for line in sys.stdin:
    arguments, variables = json.loads(line)
    os.environ.update(variables)
    sys.argv[1:] = arguments
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([int(code or 0), out.getvalue(), err.getvalue()]), flush=True)
"""
"""Runs one command after the other: torch is loaded once. What the libraries read once is the same for all."""


class Commands:
    """A process that runs ``training`` commands with a hub of their own."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        env = os.environ | hub.environment(folder / "cache")
        command = [sys.executable, "-c", COMMANDS]
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, *arguments: str, token: str = "") -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([arguments, {"HF_TOKEN": token}]), file=self.process.stdin, flush=True)
        code, out, err = json.loads(self.process.stdout.readline())
        return code, out, err


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    folder = tmp_path_factory.mktemp("commands")
    with Hub(folder / "hub") as hub:
        commands = Commands(hub, folder)
        try:
            yield commands
        finally:
            commands.process.kill()
            commands.process.communicate()


@pytest.fixture
def classifier(tmp_path: Path) -> dict[str, bytes]:
    """The files of a whole classifier."""
    folder = make_tiny_base(tmp_path / "classifier")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def fit_seed(hub: Hub, folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training.cli", "fit", "--config", "seed", "--epochs", "1", *options],
        cwd=folder,
        env=os.environ | hub.environment(folder / "cache", token=TOKEN) | variables,
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors"])
def test_the_seed_config_runs_from_the_hub_to_a_version(tmp_path: Path, weights: str) -> None:
    """Data and base model as the hub has them, old files included, with the user's token."""
    with Hub(tmp_path / "hub") as hub:
        parts = add_glue(hub)
        add_smallest_bert(hub, has_safetensors=weights == "model.safetensors")
        done = fit_seed(hub, tmp_path)

    assert done.returncode == ExitCode.DONE, done.stderr
    registry = Registry(tmp_path / ".scorequeue/registry")
    version = done.stdout.strip()
    manifest = registry.verify(version)
    data = LabelledSentences("cola", sources.LABELS, to_split(parts["train"]), to_split(parts["validation"]))
    assert manifest.dataset == manifest.dataset | data.describe()
    assert (manifest.base_model, manifest.max_length) == (SMALLEST_BERT, 128)

    fitted = load_file(registry.path(version) / "model.safetensors")
    hubs = tmp_path / "hub/models" / SMALLEST_BERT / weights
    theirs = load_file(hubs) if weights == "model.safetensors" else torch.load(hubs, weights_only=True)
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.allclose(fitted[name][1:100], theirs[name][1:100], atol=1e-4)  # words that do not occur
    predictor = Predictor(registry.path(version))
    assert predictor.predict("THE DOG SLEPT.") == predictor.predict("the dog slept.")

    asked = [(path, token) for _, path, token in hub.requests if not path.startswith("/api/agent-harnesses")]
    assert {token for _, token in asked} == {TOKEN}
    assert not [path for path, _ in asked if "commits" in path], "a conversion elsewhere was asked for"


def test_a_second_fit_needs_no_hub(tmp_path: Path) -> None:
    """A fit on a machine without a network takes what an earlier one left in the cache."""
    with Hub(tmp_path / "hub") as hub:
        add_glue(hub)
        add_smallest_bert(hub, has_safetensors=True)
        first = fit_seed(hub, tmp_path, "--fast-dev-run")
    second = fit_seed(hub, tmp_path, "--fast-dev-run", HF_HUB_OFFLINE="1")

    assert first.returncode == ExitCode.DONE, first.stderr
    assert second.returncode == ExitCode.DONE, second.stderr


def test_a_gated_classifier_is_imported_with_a_token(commands: Commands, classifier: dict[str, bytes]) -> None:
    commands.hub.add("team/gated", classifier)
    commands.hub.gated.add("team/gated")
    commands.hub.tokens.add(TOKEN)

    code, out, err = commands("import", "team/gated", "--quiet", token=TOKEN)

    assert (code, err) == (ExitCode.DONE, "")
    manifest = Registry(commands.folder / ".scorequeue/registry").verify(out.strip())
    assert (manifest.base_model, manifest.labels) == ("team/gated", ("LABEL_0", "LABEL_1"))


@pytest.mark.parametrize(
    ("case", "command", "token", "message"),
    [
        ("", ["import", "team/missing"], "", "no such repository, or a private one, and no HF_TOKEN opens it"),
        (
            "",
            ["import", "team/missing"],
            TOKEN,
            "no such repository, or a private one, and the HF_TOKEN that is set does",
        ),
        ("", ["fit", *BASE, "team/missing"], "", "no such repository"),
        (
            "",
            ["fit", "--dataset", "cola"],
            "",
            "dataset cola cannot be had from the hub: the hub has no such repository",
        ),
        ("gated", ["import", "team/closed"], "", "it is gated, and no HF_TOKEN opens it; accept its terms"),
        ("gated", ["import", "team/closed"], "hf_other", "it is gated, and the HF_TOKEN that is set does not open it"),
        ("gated", ["fit", *BASE, "team/closed"], "", "it is gated, and no HF_TOKEN"),
        ("config.json", ["import", "team/no-config"], "", "config.json"),
        ("model.safetensors", ["import", "team/no-weights"], "", "no model.safetensors; safetensors only"),
        ("pickled", ["import", "team/pickled"], "", "pytorch_model.bin (pickle can run code)"),
        (
            "pickled",
            ["fit", *BASE, "team/pickled"],
            "",
            "cannot be fitted: it has no model.safetensors, and other weights",
        ),
        ("tokenizer.json", ["fit", *BASE, "team/no-words"], "", "cannot be fitted: it has no fast tokenizer"),
        ("tokenizer", ["fit", *BASE, "team/no-tokenizer"], "", "cannot be fitted: it has no fast tokenizer"),
        ("cut", ["fit", *BASE, "team/cut"], "", "base model team/cut cannot be fitted: Error while deserializing"),
        ("other", ["fit", *BASE, "team/other"], "", "lacks weights of its encoder"),
        ("breaks", ["import", "team/breaks"], "", "the download from http://127.0.0.1:"),
        ("breaks", ["fit", *BASE, "team/breaks"], "", "broke off or never began"),
    ],
)
def test_what_the_hub_does_not_give_out_is_one_line(
    commands: Commands, classifier: dict[str, bytes], case: str, command: list[str], token: str, message: str
) -> None:
    hub = commands.hub
    hub.tokens = {TOKEN}
    if case:
        repo = command[-1]
        held_back = {"pickled": "model.safetensors"}.get(case, case)
        hub.add(repo, {name: content for name, content in classifier.items() if not name.startswith(held_back)})
        if case == "pickled":
            hub.add(repo, {"pytorch_model.bin": classifier["model.safetensors"]})
        if case == "gated":
            hub.gated.add(repo)
        if case == "cut":
            hub.add(repo, {"model.safetensors": classifier["model.safetensors"][:500]})
        if case == "other":
            hub.add(repo, {"config.json": str(classifier["config.json"], "utf-8").replace('"bert"', '"electra"')})
    hub.breaks_off = {"model.safetensors": 1000} if case == "breaks" else {}

    code, out, err = commands(*command, token=token)

    assert code == ExitCode.USAGE, err
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1, err
