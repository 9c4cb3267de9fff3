from __future__ import annotations

import threading
import time

from worker.apart import Apart


def test_nothing_works_beside_a_row_that_runs_alone() -> None:
    apart = Apart()
    log: list[str] = []
    begun = threading.Event()

    def work() -> None:
        begun.set()
        with apart.beside():
            log.append("worked")

    apart.begin_alone()
    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(5)
    time.sleep(0.05)
    log.append("row done")
    apart.end_alone()
    thread.join(5)

    assert log == ["row done", "worked"]


def test_a_row_waits_for_what_works_already() -> None:
    apart = Apart()
    log: list[str] = []

    def run_row() -> None:
        apart.begin_alone()
        log.append("row")
        apart.end_alone()

    with apart.beside():
        thread = threading.Thread(target=run_row)
        thread.start()
        time.sleep(0.05)
        log.append("worked")
    thread.join(5)

    assert log == ["worked", "row"]


def test_rows_and_the_others_take_turns() -> None:
    """Neither a chunk of many suspect rows nor two busy pumps may starve the other side."""
    apart = Apart()
    rows = pieces = 0
    stop = threading.Event()

    def run_rows() -> None:
        nonlocal rows
        while not stop.is_set():
            apart.begin_alone()
            rows += 1
            apart.end_alone()

    def work() -> None:
        nonlocal pieces
        while not stop.is_set():
            with apart.beside():
                pieces += 1
                time.sleep(0.001)

    threads = [threading.Thread(target=run_rows), threading.Thread(target=work), threading.Thread(target=work)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join(5)

    assert min(rows, pieces) > 50
    assert not any(thread.is_alive() for thread in threads)
