"""The wheel as a user gets it: installed bare, outside the repository, without torch."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scorequeue.jobs import JobState
from scorequeue.ledger import Ledger
from scorequeue.settings import Settings
from tests.integration.scoring import score_waiting
from tests.processes import environment
from training.config_files import NAMES

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "tokenizers", "numpy", "pytorch_lightning", "pyarrow")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the wheel and what it depends on, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = folder / "source"  # a copy, so that no build leaves its traces in the repository
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(source)], check=True)
    changed = subprocess.run(["git", "ls-files", "-mo", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in changed.stdout.splitlines():  # what is not committed yet is tested too
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(source)], check=True)
    venv.create(folder / "env", with_pip=False)
    programs = folder / "env" / "bin"
    install(programs, str(next(folder.glob("scorequeue-*.whl"))))
    return programs


def install(programs: Path, what: str) -> None:
    """Install into an environment, in the versions of the constraints."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", str(programs / "python")]
    subprocess.run([*pip, "install", "-c", str(ROOT / "constraints.txt"), what], check=True)


def run(bare: Path, *command: str, folder: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(bare / command[0]), *command[1:]],
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_bare_wheel_brings_no_torch(bare: Path, tmp_path: Path) -> None:
    code = f"import importlib.util as u; print([n for n in {HEAVY} if u.find_spec(n)])"

    found = run(bare, "python", "-c", code, folder=tmp_path)

    assert found.stdout.strip() == "[]"


def test_help_loads_the_command_line_and_nothing_else(bare: Path, tmp_path: Path) -> None:
    """Start-up is part of the experience: help must not pay for pydantic, redis, Celery or rich."""
    code = (
        "import sys, producer.cli\n"
        "try: producer.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('pydantic', 'redis', 'celery', 'rich', 'prometheus_client', 'torch') if n in sys.modules])"
    )

    loaded = run(bare, "python", "-c", code, folder=tmp_path)
    help_text = run(bare, "producer", "--help", folder=tmp_path)

    assert loaded.stdout.splitlines()[-1] == "[]"
    assert help_text.returncode == 0
    assert "submit" in help_text.stdout


def test_the_wheel_holds_the_configs_and_templates_of_training(bare: Path) -> None:
    """They are data, not code: a build leaves them out unless it is told."""
    (wheel,) = bare.parents[1].glob("scorequeue-*.whl")

    held = zipfile.ZipFile(wheel).namelist()

    assert {f"training/configs/{name}.yaml" for name in NAMES} <= set(held)
    assert {"training/templates/report.html", "training/templates/report.css"} <= set(held)


CLIENT = "from producer import Client\nprint(Client.__module__)\n"
THEIRS = "raise RuntimeError('this is the package of the project, not the installed one')\n"


def project(folder: Path, *, with_packages: bool) -> Path:
    """Make a project that has folders named like our packages, and a script at its top and one below."""
    for name in ("producer", "worker", "training", "scorequeue"):
        (folder / name).mkdir()
        (folder / name / "notes.txt").write_text("Ours are on the path; these are not.")
        if with_packages:
            (folder / name / "__init__.py").write_text(THEIRS)
            (folder / name / "__main__.py").write_text("")
    (folder / "bin").mkdir()
    for script in ("script.py", "bin/script.py"):
        (folder / script).write_text(CLIENT)
    return folder


def test_folders_named_like_ours_are_in_nobodys_way(bare: Path, tmp_path: Path) -> None:
    """A folder without __init__.py is no package to Python as long as there is one of that name."""
    folder = project(tmp_path, with_packages=False)

    for command in (["script.py"], ["-m", "script"], ["bin/script.py"]):
        assert run(bare, "python", *command, folder=folder).stdout == "producer.client\n"
    assert run(bare, "python", "-m", "producer", "--version", folder=folder).returncode == 0


def test_commands_work_in_a_project_with_packages_named_like_ours(
    bare: Path, tmp_path: Path, redis_url: str, namespace: str
) -> None:
    """The current folder is not searched by an installed command."""
    folder = project(tmp_path, with_packages=True)
    settings = {"redis_url": redis_url, "namespace": namespace}

    submitted = run(bare, "producer", "submit", "--text", "The cat sat.", folder=folder, **settings)
    status = run(bare, "producer", "status", submitted.stdout.strip(), folder=folder, **settings)

    assert submitted.returncode == 0, submitted.stderr
    assert "1 = 0 scored" in status.stdout
    for program in ("worker", "training"):
        assert run(bare, program, "--help", folder=folder).returncode == 0


def test_packages_named_like_ours_are_passed_over_by_a_safe_path(bare: Path, tmp_path: Path) -> None:
    """What docs/python.md says of a script beside a package called producer, of -P, and of python -m."""
    folder = project(tmp_path, with_packages=True)

    shadowed = run(bare, "python", "script.py", folder=folder)
    assert "this is the package of the project" in shadowed.stderr
    assert "this is the package of the project" in run(bare, "python", "-m", "producer", folder=folder).stderr

    assert run(bare, "python", "-P", "script.py", folder=folder).stdout == "producer.client\n"
    assert run(bare, "python", "bin/script.py", folder=folder).stdout == "producer.client\n"
    assert run(bare, "python", "-P", "-m", "producer", "--version", folder=folder).returncode == 0


def test_bare_wheel_submits_a_job(bare: Path, tmp_path: Path, redis_url: str, namespace: str) -> None:
    """A lost .lua file or a missing dependency shows here."""
    (tmp_path / "in.txt").write_text("The cat sat.\nSat the cat on.\n")
    settings = {"redis_url": redis_url, "namespace": namespace}

    submitted = run(bare, "producer", "submit", "in.txt", folder=tmp_path, **settings)

    assert submitted.returncode == 0, submitted.stderr
    ledger = Ledger.connect(Settings(redis_url=redis_url, namespace=namespace))
    status = ledger.status(submitted.stdout.strip())
    ledger.close()
    assert (status.state, status.total) == (JobState.QUEUED, 2)


def test_parquet_answers_with_its_install_line(bare: Path, tmp_path: Path, redis_url: str) -> None:
    """In and out, before anything is read or uploaded."""
    (tmp_path / "in.parquet").write_bytes(b"PAR1")
    (tmp_path / "in.txt").write_text("The cat sat.\n")

    for command in (["in.parquet"], ["in.txt", "--wait", "--output", "out.parquet"]):
        answer = run(bare, "producer", "submit", *command, folder=tmp_path, redis_url=redis_url)
        assert answer.returncode == 2
        assert answer.stderr.count("\n") == 1
        assert 'pip install "scorequeue[parquet]"' in answer.stderr


@pytest.mark.parametrize("program", ["worker", "training"])
def test_missing_extra_answers_with_its_install_line(bare: Path, program: str, tmp_path: Path, redis_url: str) -> None:
    command = ["start"] if program == "worker" else ["fit", "--dataset", "sample"]

    answer = run(bare, program, *command, folder=tmp_path, redis_url=redis_url)

    assert answer.returncode == 2
    assert f'pip install "scorequeue[{program}]"' in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_parquet_extra_is_all_that_parquet_needs(
    bare: Path, tmp_path: Path, redis_url: str, namespace: str
) -> None:
    """Here pandas and numpy are installed too, which pyarrow takes where they are; a user may have neither."""
    venv.create(tmp_path / "env", with_pip=False)
    programs = tmp_path / "env" / "bin"
    install(programs, f"{next(bare.parents[1].glob('scorequeue-*.whl'))}[parquet]")
    pq.write_table(pa.table({"id": [7, 8], "text": ["The cat sat.", None]}), tmp_path / "in.parquet")
    settings = {"redis_url": redis_url, "namespace": namespace}

    submitted = run(programs, "producer", "submit", "in.parquet", folder=tmp_path, **settings)
    job_id = submitted.stdout.strip()
    ledger = Ledger.connect(Settings(redis_url=redis_url, namespace=namespace))
    score_waiting(ledger)
    ledger.close()
    for options in (["--output", "plain.parquet"], ["--join", "in.parquet", "--output", "joined.parquet"]):
        written = run(programs, "producer", "results", job_id, *options, folder=tmp_path, **settings)
        assert written.returncode == 0, written.stderr

    assert pq.read_table(tmp_path / "plain.parquet")["id"].to_pylist() == ["7", "8"]
    joined = pq.read_table(tmp_path / "joined.parquet").to_pydict()
    assert (joined["id"], joined["pred_error"]) == ([7, 8], [None, "wrong_type"])
