"""What people read in ``worker status``."""

from __future__ import annotations

from worker.cli import lines_of

ABOUT = {
    "id": "w1", "host": "h", "pid": 7, "backend": "torch", "dtype": "float32", "device": "cpu", "model_version": "v2",
    "lanes": ["express", "bulk"], "ready_versions": ["v2", "v1"], "rows": 10, "token_budget": 1_024,
}  # fmt: skip


def test_a_worker_that_is_well_is_one_line() -> None:
    well = ABOUT | {"memory_errors": 0, "registry_error": "", "failed_versions": {}}

    assert list(lines_of(well)) == ["w1  h:7  torch float32 on cpu  v2 (and v1)  express,bulk  10 rows"]


def test_what_is_not_well_is_a_line_each() -> None:
    """Whoever asks for a status would not look for it in the log."""
    ill = ABOUT | {"memory_errors": 3, "registry_error": "torn", "failed_versions": {"v9": "no sha256"}}

    assert list(lines_of(ill))[1:] == [
        "  the device had no memory for 3 batches; the token budget is 1,024 now",
        "  cannot read what is current: torn",
        "  cannot load v9: no sha256",
    ]


def test_a_worker_of_an_older_program_is_a_line_too() -> None:
    (line,) = lines_of({"id": "w1"})

    assert line.startswith("w1  ")
