"""The whole path with the real commands: fit, start a worker, submit files, read the rows back."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.processes import WorkerProcess, environment, until
from tests.servers import RedisServer
from tests.tiny import make_tiny_base

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

REAL_SENTENCES = Path(__file__).resolve().parents[3] / "shared/data/cola/in_domain_train.tsv"
NAMESPACE = "e2e"
SENTENCES = ["The cat sat on the mat.", "Cat the mat on sat.", 'She said "no", twice.', "Why not?", "It rains."]


@dataclass(frozen=True)
class Site:
    """A folder with a fitted checkpoint, a Redis and a float32 worker."""

    folder: Path
    version: str
    redis_url: str

    @property
    def checkpoint(self) -> Path:
        return self.folder / "registry" / "versions" / self.version

    def run(self, *command: str, stdin: str | None = None, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run one of the programs as a user would, from the site's folder."""
        chosen = {"redis_url": self.redis_url, "namespace": NAMESPACE, "registry": self.folder / "registry", **settings}
        return subprocess.run(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            cwd=self.folder,
            env=environment(**chosen),
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def score(self, *arguments: str, stdin: str | None = None) -> list[dict[str, Any]]:
        """Submit, wait, and return the result rows."""
        done = self.run(
            "producer", "submit", *arguments, "--wait", "--format", "jsonl", "--max-failed", "100%", stdin=stdin
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    base = make_tiny_base(folder / "base")
    with RedisServer(folder) as redis:
        site = Site(folder, "", redis.url)
        fitted = site.run("training", "fit", "--dataset", "sample", "--base-model", str(base), "--epochs", "1")
        assert fitted.returncode == 0, fitted.stderr
        settings = {"redis_url": redis.url, "namespace": NAMESPACE, "registry": folder / "registry"}
        with WorkerProcess(folder / "worker.log", **settings, dtype="float32"):
            yield Site(folder, fitted.stdout.strip(), redis.url)


def test_scores_are_those_of_the_transformers_pipeline(site: Site) -> None:
    """The queue adds nothing to the numbers and takes nothing away."""
    import transformers

    texts = SENTENCES + [f"{'A long ' * n}sentence number {n}." for n in range(40)]
    (site.folder / "in.txt").write_text("\n".join(texts) + "\n")
    pipeline = transformers.pipeline("text-classification", model=str(site.checkpoint), dtype="float32", device="cpu")

    rows = site.score("in.txt")
    max_length = json.loads((site.checkpoint / "manifest.json").read_text())["max_length"]
    expected = pipeline(texts, truncation=True, max_length=max_length)

    assert [row["row"] for row in rows] == list(range(1, len(texts) + 1))
    assert {row["model_version"] for row in rows} == {site.version}
    for row, answer in zip(rows, expected, strict=True):
        assert row["label"] == answer["label"]
        assert row["score"] == pytest.approx(answer["score"], abs=1e-4)


@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.tsv", "in.jsonl"])
def test_every_format_gives_the_same_rows(site: Site, name: str) -> None:
    file = site.folder / name
    if name == "in.csv":
        with file.open("w", newline="") as out:
            csv.writer(out).writerows([["id", "text"], *([f"r{n}", text] for n, text in enumerate(SENTENCES))])
    elif name == "in.tsv":
        file.write_text("".join(f"{text}\tx\n" for text in SENTENCES))
    elif name == "in.jsonl":
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES))
    else:
        file.write_text("".join(f"{text}\n" for text in SENTENCES))
    options = ["--no-header", "--text-field", "1"] if name == "in.tsv" else []

    rows = site.score(name, *options)
    plain = site.score("-", stdin="".join(f"{text}\n" for text in SENTENCES))

    assert [row["scores"] for row in rows] == [row["scores"] for row in plain]
    assert [row["id"] for row in rows] == (
        ["r0", "r1", "r2", "r3", "r4"] if name == "in.csv" else ["1", "2", "3", "4", "5"]
    )


def test_weekly_one_liner_adds_columns_to_the_input(site: Site) -> None:
    (site.folder / "week.csv").write_text('id,sentence,owner\n7,The cat sat.,ann\n8,,bob\n9,"Sat, the cat.",cy\n')

    done = site.run(
        *("producer", "submit", "week.csv", "--wait", "--join", "--output", "scored.csv"), "--max-failed", "1"
    )

    with (site.folder / "scored.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert done.returncode == 0, done.stderr
    assert [(row["id"], row["sentence"], row["owner"]) for row in rows] == [
        ("7", "The cat sat.", "ann"),
        ("8", "", "bob"),
        ("9", "Sat, the cat.", "cy"),
    ]
    assert [bool(row["pred_label"]) for row in rows] == [True, False, True]
    assert "empty" in rows[1]["pred_error"]


def test_failed_rows_decide_the_exit_code(site: Site) -> None:
    (site.folder / "bad.jsonl").write_text('{"text": "Fine."}\n{"text": 5}\nnot json\n')

    strict = site.run("producer", "submit", "bad.jsonl", "--wait", "--format", "jsonl")
    rows = [json.loads(line) for line in strict.stdout.splitlines()]

    assert strict.returncode == 8
    assert [row.get("error", {}).get("code") for row in rows] == [None, "wrong_type", "invalid_json"]
    assert (rows[2]["source"], rows[2]["line"]) == ("bad.jsonl", 3)


def test_status_and_audit_account_for_every_row(site: Site) -> None:
    submitted = site.run("producer", "submit", "-", "--json", "--wait", stdin="One.\n\nThree.\n")
    job_id = json.loads(submitted.stdout)["id"]

    status = json.loads(site.run("producer", "status", job_id, "--json").stdout)
    audit = site.run("producer", "audit", job_id)

    assert (status["state"], status["total"], status["scored"], status["failed"]) == ("completed", 3, 2, 1)
    assert status["total"] == status["scored"] + status["failed"] + status["cancelled"] + status["pending"]
    assert audit.returncode == 0, audit.stderr


@pytest.mark.parametrize(
    ("command", "settings", "exit_code", "said"),
    [
        (["producer", "submit", "empty.txt"], {}, 2, "no rows"),
        (["producer", "submit", "missing.txt"], {}, 2, "missing.txt"),
        (["producer", "submit", "folder"], {}, 2, "folder"),
        (["producer", "submit", "garbage.txt"], {}, 2, "garbage.txt"),
        (["producer", "submit", "columns.csv"], {}, 2, "'name', 'words'"),
        (["producer", "submit", "columns.csv", "--text-field", "txet"], {}, 2, "txet"),
        (["producer", "status", "0" * 32], {}, 5, "0" * 32),
        (["producer", "results", "nonsense"], {}, 5, "nonsense"),
        (["producer", "submit", "fine.txt"], {"redis_url": "redis://127.0.0.1:1/0"}, 3, "127.0.0.1:1"),
        (["worker", "start"], {"redis_url": "redis://127.0.0.1:1/0"}, 3, "127.0.0.1:1"),
        (["worker", "start"], {"registry": "nowhere"}, 6, "training fit"),
        (["training", "fit", "--base-model", "no/such/folder", "--dataset", "sample"], {}, 2, "no/such/folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    site: Site, command: list[str], settings: dict[str, str], exit_code: int, said: str
) -> None:
    (site.folder / "empty.txt").touch()
    (site.folder / "folder").mkdir(exist_ok=True)
    (site.folder / "garbage.txt").write_bytes(bytes(range(256)) * 16)
    (site.folder / "columns.csv").write_text("name,words\na,b\n")
    (site.folder / "fine.txt").write_text("Fine.\n")

    answer = site.run(*command, **settings)

    lines = answer.stderr.strip().splitlines()
    assert answer.returncode == exit_code, answer.stderr
    assert answer.stdout == ""
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    assert said in lines[-1]
    assert "Traceback" not in answer.stderr


def test_lane_without_a_worker_is_said(site: Site) -> None:
    answer = site.run("producer", "submit", "-", stdin="Fine.\n", namespace="nobody-listens")

    assert answer.returncode == 0
    assert len(answer.stdout.strip()) == 32
    assert "no live worker" in answer.stderr


@pytest.mark.data
@pytest.mark.skipif(not REAL_SENTENCES.exists(), reason="the optional real sentences are not beside the repository")
def test_real_sentences_come_back_in_order(site: Site) -> None:
    """8,551 sentences with quotes and odd characters, in bulk."""
    lines = REAL_SENTENCES.read_text("utf-8").splitlines()

    rows = site.score(str(REAL_SENTENCES), "--no-header", "--text-field", "4")

    assert [row["row"] for row in rows] == list(range(1, len(lines) + 1))
    assert not [row for row in rows if "error" in row]


def test_local_worker_brings_its_own_redis(site: Site, tmp_path: Path) -> None:
    """--local: nothing but the package is needed, and the last one to leave stops the server."""
    command = [str(Path(sys.executable).parent / "worker"), "start", "--local"]
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            command, cwd=tmp_path, env=environment(registry=site.folder / "registry"), stdout=log, stderr=log
        )
    try:
        program = Path(sys.executable).parent / "producer"
        (tmp_path / "in.txt").write_text("Fine.\n")
        note = tmp_path / ".scorequeue" / "local.json"
        until(note.exists, timeout_s=60, what="an embedded Redis")
        done = subprocess.run(
            [str(program), "submit", "in.txt", "--wait", "--timeout", "60s", "--format", "jsonl"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        url = json.loads(note.read_text())["url"]
    finally:
        worker.terminate()
        status = worker.wait(timeout=60)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"] in ("acceptable", "unacceptable")
    assert status == 0
    assert not note.exists()
    with redis.Redis.from_url(url) as gone, pytest.raises(redis.exceptions.ConnectionError):
        gone.ping()
