"""The Python client as its page and its example show it: real Redis, a real worker on a fake device."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import producer
from producer import Client
from scorequeue.jobs import JobState
from scorequeue.settings import Settings
from tests.integration.scoring import score_of, scoring
from tests.processes import WorkerProcess, environment
from tests.servers import free_port
from tests.tiny import publish_tiny

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "score_sentences.py"
NAMESPACE = "python-docs"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("worker")
    publish_tiny(folder / "registry")
    settings = {"redis_url": redis_url, "namespace": NAMESPACE, "registry": folder / "registry", "backend": "fake"}
    with WorkerProcess(folder / "worker.log", **settings) as worker:
        yield worker


def run(folder: Path, *command: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_example_scores_a_list_and_a_file(worker, redis_url, tmp_path):
    (tmp_path / "in.txt").write_text("Who did you see?\n\nWho you did see?\n")

    done = run(tmp_path, str(EXAMPLE), "in.txt", redis_url=redis_url, namespace=NAMESPACE)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "completed: 2 scored, 1 failed"
    assert re.fullmatch(r"first: \S+ [01]\.\d{4}, by \S+", lines[1])
    assert lines[3] == "third: empty_text: expected a sentence, got nothing but blanks"
    assert lines[4] == "in.txt: 2 good rows, 1 faulty ones, 1 chunks"
    assert lines[6].endswith("(in.txt, line 2)")
    assert len(lines) == 8


def test_the_example_meets_errors_as_classes(worker, redis_url, tmp_path):
    gone = run(tmp_path, str(EXAMPLE), redis_url=f"redis://127.0.0.1:{free_port()}/0")
    missing = run(tmp_path, str(EXAMPLE), "none.txt", redis_url=redis_url, namespace=NAMESPACE)

    assert (gone.returncode, gone.stderr.split(":")[0]) == (3, "Redis")
    assert (missing.returncode, missing.stderr) == (2, "the file: none.txt: no such file\n")


def test_what_the_page_shows_runs(worker, redis_url, tmp_path):
    """All blocks of docs/python.md one after the other, as a reader would type them."""
    (tmp_path / "in.csv").write_text("id,sentence\n1,One.\n2,\n")
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)
    (tmp_path / "page.py").write_text("\n".join(blocks))

    done = run(tmp_path, "-W", "error", "page.py", redis_url=redis_url, namespace=NAMESPACE)

    assert done.returncode == 0, done.stderr
    assert len(blocks) == 4
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["1", "2"]
    assert lines[3].startswith("2 1 [(<ErrorCode.EMPTY_TEXT")
    assert lines[4].startswith("gone: no job")


def test_the_page_names_every_public_method_and_name():
    page = (DOCS / "python.md").read_text()
    methods = [name for owner in (Client, producer.Job) for name in vars(owner) if not name.startswith("_")]
    shown = set(re.findall(r"\w+", page))
    internal = {"settings", "follower", "reader"}  # what the command line's writers need

    assert {*methods, *producer.__all__} - shown - internal == set()


def test_one_client_serves_many_threads(redis_url, namespace):
    """A web service has one client and as many requests as come; each must get its own rows."""
    settings = Settings(redis_url=redis_url, namespace=namespace)
    wrong: list[str] = []
    ids: list[str] = []

    def work(client: Client, thread: int) -> None:
        for number in range(25):
            texts = [f"Thread {thread}, job {number}{'.' * n}" for n in range(1, 1 + (thread + number) % 5)] or ["One."]
            job = client.submit([(f"{thread}-{number}-{n}", text) for n, text in enumerate(texts)])
            ids.append(job.id)
            if number % 2:
                rows = list(job.follow(timeout_s=60))
            else:
                job.wait(timeout_s=60)
                rows = list(job.results())
            expected = [(f"{thread}-{number}-{n}", score_of(text)) for n, text in enumerate(texts)]
            if [(row.id, row.scores["acceptable"]) for row in rows] != expected:
                wrong.append(job.id)

    with scoring(settings), Client(settings=settings) as client:
        threads = [threading.Thread(target=work, args=(client, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = client.jobs(limit=1000)
        audits = [client.job(job_id).audit().is_clean for job_id in ids[::10]]

    assert wrong == []
    assert len(set(ids)) == len(ids) == 200
    assert {status.id for status in found} == set(ids)
    assert {status.state for status in found} == {JobState.COMPLETED}
    assert all(status.scored == status.total for status in found)
    assert all(audits)
