"""How many padded tokens a batch may have now. Pure policy: no clock, thread or device of its own."""

from __future__ import annotations

SMALLEST_BUDGET = 256
"""A device that cannot hold so little has no use of smaller budgets either: the batches that fail are halved anyway."""

CLEAN_BATCHES = 256
"""Full batches in a row that must have gone well before larger ones are tried."""

RETRY_S = 120.0
"""Seconds after the last failure before larger batches are tried: each try that fails costs a batch."""

FULL = 0.5
"""Share of the budget from which on a batch says something about it: many end when they are half full."""


class TokenBudget:
    """The budget of one version on one device.

    A batch within it for which there is no memory halves it, to ``SMALLEST_BUDGET`` at least. ``CLEAN_BATCHES`` full
    batches, the last of them ``RETRY_S`` after the last failure, double it again, up to what it was at first: memory
    may be short for a moment, because of a neighbour on the device.

    Args:
        tokens: The whole budget.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._whole = tokens
        self._clean_batches = 0
        self._failed_at = 0.0

    def fail(self, padded_tokens: int, *, now: float) -> None:
        """There was no memory for a batch, at ``now`` of a monotonic clock.

        One above the budget was cut before the budget fell, or is one long row: neither says anything about the budget.
        """
        self._clean_batches = 0
        self._failed_at = now
        if padded_tokens <= self.tokens:
            self.tokens = max(min(SMALLEST_BUDGET, self._whole), self.tokens // 2)

    def succeed(self, padded_tokens: int, *, now: float) -> bool:
        """A batch went well, at ``now`` of a monotonic clock; returns whether the budget has grown."""
        if self.tokens == self._whole or padded_tokens < self.tokens * FULL:
            return False
        self._clean_batches += 1
        if self._clean_batches < CLEAN_BATCHES or now - self._failed_at < RETRY_S:
            return False
        self._clean_batches = 0
        self.tokens = min(self._whole, 2 * self.tokens)
        return True
