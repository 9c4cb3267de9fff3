"""Fixtures of tests that talk to a real Redis: settings of this test's namespace, and what is made of them.

A module that needs other settings has a fixture ``settings`` of its own; the others here follow it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from producer import Client
from scorequeue.ledger import Ledger
from scorequeue.settings import Settings
from tests.shell import Shell


@pytest.fixture
def settings(redis_url: str, namespace: str) -> Settings:
    return Settings(redis_url=redis_url, namespace=namespace)


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with Client(settings=settings) as client:
        yield client


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with closing(Ledger.connect(settings)) as ledger:
        yield ledger


@pytest.fixture
def sh(tmp_path: Path, settings: Settings) -> Shell:
    return Shell(tmp_path, settings)
