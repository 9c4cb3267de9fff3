"""What a worker's scorers have done since its start."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(slots=True)
class ScorerStats:
    """What a scorer has done so far.

    Attributes:
        batches: Batches scored.
        rows: Rows that went through the model, a row tried again counted again.
        failed_rows: Rows that failed alone on a healthy device.
        tokens: Tokens of scored batches without padding.
        padded_tokens: The same with padding.
        forward_s: Seconds in which the device had at least one batch; it may have had room for more of them.
        longest_batch_s: Longest time that one batch took.
        memory_errors: Batches for which the device had no memory.
        device_restarts: How often the device process was started anew.
        longest_pause_s: Longest time from a batch's end to the next one's begin while rows waited: what the worker
            itself spent in between. What stretches a batch, as a load beside it does, is in ``longest_batch_s``.
    """

    batches: int = 0
    rows: int = 0
    failed_rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    forward_s: float = 0.0
    longest_batch_s: float = 0.0
    memory_errors: int = 0
    device_restarts: int = 0
    longest_pause_s: float = 0.0

    def add(self, other: ScorerStats) -> None:
        """Add what another scorer has done."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            setattr(self, field.name, max(mine, theirs) if field.name.startswith("longest") else mine + theirs)

    def to_dict(self) -> dict[str, float]:
        """Return what a worker says of itself with every heartbeat; seconds are rounded to milliseconds."""
        return {name: round(value, 3) for name, value in asdict(self).items()}
