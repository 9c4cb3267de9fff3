"""``make bench-gpu`` without a GPU: card time is short, so its parts have to run before they meet one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.gpu_report import BASE, Findings
from tests.benchmarks.gpu_rows import MIXES, load_tokenizer, make_rows
from tests.tiny import make_tiny_base

SENTENCES = ["The dog slept.", "She told him a long story.", "Which letter did the teacher read?"]
NEEDS_ACCELERATE = {"trainer"}


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.timeout(300)
def test_every_section_measures_something_on_a_cpu(tmp_path: Path) -> None:
    sections = ["bare", "queue", "lone", "scores", "tokenizer", "pipeline", "fit"]
    if importlib.util.find_spec("accelerate") is not None:
        sections += NEEDS_ACCELERATE

    done = run_bench(
        "--device", "cpu", "--quick", "--only", ",".join(sections), "--json", str(tmp_path / "found.json")
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_bytes())
    assert found["failed"] == {}, done.stderr
    assert found["machine"]["device"] == "cpu"
    figures = found["models"]["tiny"]
    for name in (
        BASE,
        "bare loop, ids ready, cuDNN attention off",
        "through the queue",
        "tokenizer alone, one process",
    ):
        assert set(figures["rows_per_s"][name]) == set(MIXES)
        assert min(figures["rows_per_s"][name].values()) > 0
    assert sum(name.startswith("transformers pipeline") for name in figures["rows_per_s"]) == 4
    for name in ("lone sentence, idle", "lone sentence, beside bulk"):
        assert 0 < figures["other"][name]["p50 ms"] <= figures["other"][name]["p99 ms"]
    assert figures["other"]["scores against float32 on the CPU"]["largest difference"] < 0.1
    assert found["training_rows_per_s"]["training fit"]["later epochs"] > 0
    assert "through the queue" in done.stdout


def test_a_machine_without_a_gpu_is_named_in_one_line(tmp_path: Path) -> None:
    done = run_bench("--json", str(tmp_path / "found.json"))

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no GPU")
    assert done.stdout.count("\n") == 1
    assert not (tmp_path / "found.json").exists()


def test_a_section_that_fails_costs_no_other_one_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    findings = Findings(file, give_up_s=60)

    assert findings.run("first", lambda: findings.put("tiny", "upload", 5.0, mix="short"))
    assert not findings.run("second", lambda: [][0])
    assert findings.run("third", lambda: findings.put("tiny", "token budget", 512))

    found = json.loads(file.read_bytes())
    assert found["models"]["tiny"] == {"rows_per_s": {"upload": {"short": 5.0}}, "other": {"token budget": 512}}
    assert list(found["failed"]) == ["second"]
    assert found["failed"]["second"].startswith("IndexError")


def test_no_section_begins_after_the_time_is_over(tmp_path: Path) -> None:
    findings = Findings(tmp_path / "found.json", give_up_s=0)

    assert not findings.run("late", lambda: findings.put("tiny", "token budget", 512))

    assert findings.found["models"] == {}


def test_rows_have_the_lengths_of_their_mix(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_tiny_base(tmp_path), max_length=100_000)
    sentences = SENTENCES * 50

    for mix, (fewest, most) in MIXES.items():
        rows = make_rows(mix, sentences, count=100, tokenizer=tokenizer)
        assert len(rows) == 100
        lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(rows)]
        if mix == "short":
            assert set(rows) <= set(sentences)
        else:
            longest_sentence = 30  # each row ends with a whole one
            assert fewest - longest_sentence < min(lengths)
            assert (fewest + most) / 2 * 0.8 < sum(lengths) / 100 < (fewest + most) / 2 * 1.2
            assert max(lengths) < most + longest_sentence
