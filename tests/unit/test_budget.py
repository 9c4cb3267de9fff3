from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.budget import CLEAN_BATCHES, RETRY_S, SMALLEST_BUDGET, TokenBudget


def succeed(budget: TokenBudget, times: int, *, now: float, padded_tokens: int | None = None) -> None:
    for _ in range(times):
        budget.succeed(budget.tokens if padded_tokens is None else padded_tokens, now=now)


def test_a_batch_over_the_budget_says_nothing_about_it() -> None:
    """Batches in flight were cut before it fell, and one long row is no reason to slow the short ones."""
    budget = TokenBudget(4_096)

    budget.fail(4_000, now=0)
    budget.fail(4_000, now=0)

    assert budget.tokens == 2_048


def test_it_does_not_fall_below_what_every_device_holds() -> None:
    budget, small = TokenBudget(4_096), TokenBudget(100)

    for _ in range(50):
        budget.fail(1, now=0)
        small.fail(1, now=0)

    assert (budget.tokens, small.tokens) == (SMALLEST_BUDGET, 100)


def test_it_comes_back_step_by_step_and_not_further() -> None:
    budget = TokenBudget(3_000)
    budget.fail(1, now=0)
    budget.fail(1, now=0)
    seen = [budget.tokens]

    for _ in range(4):
        succeed(budget, CLEAN_BATCHES, now=RETRY_S)
        seen.append(budget.tokens)

    assert seen == [750, 1_500, 3_000, 3_000, 3_000]


def test_batches_that_are_not_full_prove_nothing() -> None:
    budget = TokenBudget(4_096)
    budget.fail(4_096, now=0)

    succeed(budget, 10 * CLEAN_BATCHES, now=RETRY_S, padded_tokens=100)

    assert budget.tokens == 2_048


def test_a_device_that_is_too_small_is_asked_once_in_a_while() -> None:
    """Each try costs a batch: one in two minutes is nothing, one in 256 batches would be."""
    budget, tries = TokenBudget(1_024), []

    for second in range(int(10 * RETRY_S)):
        succeed(budget, CLEAN_BATCHES, now=second)
        if budget.tokens > 512:
            tries.append(second)
            budget.fail(1_024, now=second)

    assert len(tries) == 10


@given(st.integers(1, 10_000), st.lists(st.tuples(st.booleans(), st.integers(1, 20_000), st.integers(0, 300))))
def test_it_stays_between_floor_and_whole(whole: int, events: list[tuple[bool, int, int]]) -> None:
    budget, now = TokenBudget(whole), 0.0

    for is_good, padded_tokens, seconds in events:
        now += seconds
        if is_good:
            budget.succeed(padded_tokens, now=now)
        else:
            budget.fail(padded_tokens, now=now)

        assert min(whole, SMALLEST_BUDGET) <= budget.tokens <= whole
