"""The fixture ``stage``, and the table of all scenarios at the end of a run."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.stage import Account, Stage
from tests.tiny import publish_tiny

_ACCOUNTS: list[tuple[Account, pytest.Item]] = []
_FAILED: set[str] = set()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "registry"
    with contextlib.redirect_stderr(io.StringIO()):
        publish_tiny(folder)
    return folder


@pytest.fixture
def stage(request: pytest.FixtureRequest, tmp_path: Path, registry: Path) -> Iterator[Stage]:
    """A Redis of the scenario's own, workers, a client; what it did goes into the table."""
    name = request.node.name.removeprefix("test_").replace("_", " ")
    account = Account(name)
    _ACCOUNTS.append((account, request.node))
    with ExitStack() as stack:
        yield Stage(tmp_path, registry, account, stack)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _FAILED.add(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _ACCOUNTS:
        return
    accounts = [account for account, _ in _ACCOUNTS]
    terminalreporter.section("what became of the rows")
    width = max(len(account.scenario) for account in accounts)
    numbers = ("kills", "rows", "scored", "failed", "lost", "doubled")
    head = "  ".join(f"{name:>7}" for name in numbers)
    terminalreporter.write_line(f"{'scenario':<{width}}  {head}  recovered in")
    for account, item in _ACCOUNTS:
        cells = "  ".join(f"{getattr(account, name):>7}" for name in numbers)
        took = "" if account.recovered_s is None else f"{account.recovered_s:.1f} s"
        verdict = "FAILED  " if item.nodeid in _FAILED else ""
        line = f"{account.scenario:<{width}}  {cells}  {took:>12}  {verdict}{account.note}"
        terminalreporter.write_line(line.rstrip())
    sums = {name: sum(getattr(account, name) for account in accounts) for name in numbers}
    terminalreporter.write_line(
        f"{len(accounts)} scenarios, {sums['kills']} kills, {sums['rows']:,} rows, {sums['lost']} lost,"
        f" {sums['doubled']} doubled"
    )
