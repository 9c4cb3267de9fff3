"""What a worker's scorers have done since its start."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(slots=True)
class ScorerStats:
    """What a scorer has done so far."""

    batches: int = 0
    rows: int = 0  # that went through the model, one that is tried again counted again
    failed_rows: int = 0  # that failed alone on a healthy device
    tokens: int = 0  # without padding
    padded_tokens: int = 0
    forward_s: float = 0.0  # seconds in which the device had at least one batch
    longest_batch_s: float = 0.0
    memory_errors: int = 0  # batches for which the device had no memory
    device_restarts: int = 0

    def add(self, other: ScorerStats) -> None:
        """Add what another scorer has done."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            setattr(self, field.name, max(mine, theirs) if field.name == "longest_batch_s" else mine + theirs)

    def to_dict(self) -> dict[str, float]:
        """Return what a worker says of itself with every heartbeat; seconds are rounded to milliseconds."""
        return {name: round(value, 3) for name, value in asdict(self).items()}
