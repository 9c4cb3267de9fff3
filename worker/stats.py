"""What a worker's scorer has done since its start."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from worker.backends import PaddedBatch


@dataclass(frozen=True, slots=True)
class ScorerStats:
    """What the scorer has done so far.

    Attributes:
        batches: Batches scored.
        rows: Rows that went through the model, a row tried again counted again.
        failed_rows: Rows that failed alone on a healthy device.
        tokens: Tokens of scored batches without padding.
        padded_tokens: The same with padding.
        forward_s: Seconds in which the device had at least one batch; it may have had room for more of them.
        longest_batch_s: Longest time that one batch took.
        memory_errors: Batches for which the device had no memory.
        longest_pause_s: Longest time from a batch's end to the next one's begin while rows waited: what the worker
            itself spent in between. What stretches a batch, as a load beside it does, is in ``longest_batch_s``.
        last_batch_at: When the last batch ended, a failed one and golden sentences too, on the monotonic clock; 0
            before the first.
    """

    batches: int = 0
    rows: int = 0
    failed_rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    forward_s: float = 0.0
    longest_batch_s: float = 0.0
    memory_errors: int = 0
    longest_pause_s: float = 0.0
    last_batch_at: float = 0.0

    def after(self, batch: PaddedBatch, *, begun_at: float, busy_since: float, now: float) -> ScorerStats:
        """These figures with one more batch in them.

        Args:
            batch: Which.
            begun_at: When it was given to the device.
            busy_since: When rows began to be there without a pause.
            now: When its scores were there.
        """
        # With two batches in flight the second one's time begins when the first one ended.
        took_s = now - max(begun_at, self.last_batch_at)
        return replace(
            self,
            batches=self.batches + 1,
            rows=self.rows + batch.rows,
            tokens=self.tokens + int(batch.lengths.sum()),
            padded_tokens=self.padded_tokens + batch.input_ids.size,
            forward_s=self.forward_s + took_s,
            longest_batch_s=max(self.longest_batch_s, took_s),
            longest_pause_s=max(self.longest_pause_s, begun_at - max(busy_since, self.last_batch_at)),
            last_batch_at=now,
        )

    def to_dict(self) -> dict[str, float]:
        """Return what a worker says of itself with every heartbeat; seconds are rounded to milliseconds."""
        return {name: round(value, 3) for name, value in asdict(self).items() if name != "last_batch_at"}
