"""The order of data and the schedule are pure functions of the step."""

import itertools

import numpy as np
import pytest

from chemscale.training.sampler import FrameBatches, TokenBatches, micro_batches, total_steps
from chemscale.training.schedule import learning_rate, validation_steps


def _lengths(count=300):
    return np.random.default_rng(1).integers(3, 90, count)


@pytest.mark.parametrize("make", [lambda: TokenBatches(_lengths(), 256, 5), lambda: FrameBatches(37, 4, 5)])
def test_order_does_not_depend_on_where_a_run_was_interrupted(make):
    whole = list(itertools.islice(make().from_step(0), 120))
    for start in (1, 7, 59, 100):
        resumed = list(itertools.islice(make().from_step(start), 120 - start))
        assert all(np.array_equal(a, b) for a, b in zip(whole[start:], resumed, strict=True))


@pytest.mark.parametrize(
    ("make", "count"), [(lambda s: TokenBatches(_lengths(), 256, s), 300), (lambda s: FrameBatches(37, 4, s), 37)]
)
def test_each_sample_is_seen_once_an_epoch_in_an_order_of_the_seed(make, count):
    batches = make(0)
    steps = batches.steps_in(1)
    first = np.concatenate(list(itertools.islice(batches.from_step(0), steps)))
    second = np.concatenate(list(itertools.islice(batches.from_step(steps), batches.steps_in(2) - steps)))
    other = np.concatenate(list(itertools.islice(make(1).from_step(0), make(1).steps_in(1))))
    for order in (first, second, other):
        assert sorted(order) == list(range(count))
    assert list(first) != list(second)
    assert list(first) != list(other)


def test_batches_keep_their_budget_and_hold_molecules_of_similar_length():
    lengths = _lengths(4000)
    batches = TokenBatches(lengths, 512, 0).epoch(0)
    tokens = [lengths[batch].sum() for batch in batches]
    assert max(tokens) <= 512
    assert np.mean(tokens) > 0.9 * 512
    assert sum(tokens) / sum(len(batch) * lengths[batch].max() for batch in batches) > 0.95


def test_a_molecule_longer_than_the_budget_has_a_batch_of_its_own():
    batches = TokenBatches(np.array([4, 900, 5]), 64, 0).epoch(0)
    assert sorted(np.concatenate(batches)) == [0, 1, 2]
    assert [1] in [list(batch) for batch in batches]


def test_steps_of_each_protocol():
    frames = FrameBatches(10, 4, 0)
    assert total_steps({"kind": "one_pass"}, frames) == 3
    assert total_steps({"kind": "fixed_epochs", "epochs": 5}, frames) == 15
    assert total_steps({"kind": "equal_steps", "steps": 77}, frames) == 77


def _rates(**settings):
    default = {"learning_rate": 0.01, "schedule": "cosine", "warmup": 0.1, "warmup_steps": None, "final_rate": 0.05,
               "decay": 0.2}  # fmt: skip
    return [learning_rate(step, 1000, default | settings) for step in range(1000)]


def test_constant_rates_stay_and_stable_ones_fall_in_the_end():
    constant = _rates(schedule="constant", warmup_steps=50)
    assert constant[49:] == [0.01] * 951
    assert constant[:49] == pytest.approx([0.01 * (step + 1) / 50 for step in range(49)])
    stable = _rates(schedule="stable_decay")
    assert stable[99:801] == [0.01] * 702
    assert all(a > b for a, b in itertools.pairwise(stable[800:]))
    assert stable[850] == pytest.approx(0.01 * (0.05 + 0.95 * (1 - 0.25**0.5)))
    assert stable[-1] == pytest.approx(0.0005, rel=0.06)


def test_rate_rises_falls_and_ends():
    rates = _rates()
    assert rates[0] == pytest.approx(0.0001)
    assert max(rates) == pytest.approx(0.01)
    assert np.argmax(rates) in (99, 100)
    assert rates[-1] == pytest.approx(0.0005, rel=0.01)
    assert all(a >= b for a, b in itertools.pairwise(rates[100:]))


def _validated(count, **schedule):
    return {"validations": count, "schedule": "cosine", **schedule}


def test_validation_steps_end_with_the_last_step():
    assert validation_steps(1000, _validated(4)) == [50, 136, 368, 1000]
    assert validation_steps(3, _validated(8))[-1] == 3
    assert validation_steps(10, _validated(1)) == [10]


def test_validations_wait_until_a_stable_rate_falls():
    assert validation_steps(1000, _validated(8, schedule="stable_decay", decay=0.5)) == [652, 1000]
    assert validation_steps(1000, _validated(2, schedule="stable_decay", decay=0.1)) == [1000]


def test_a_larger_subset_begins_with_the_settled_batches_of_a_smaller_one():
    lengths = _lengths(6000)
    whole = TokenBatches(lengths, 256, 3, given_order=True).epoch(0)
    assert sorted(np.concatenate(whole)) == list(range(6000))
    for count in (1, 500, 1777, 4000):
        smaller = TokenBatches(lengths[:count], 256, 3, given_order=True)
        settled, batches = smaller.settled(), smaller.epoch(0)
        assert len(batches) - 34 <= settled < len(batches)
        assert all(np.array_equal(a, b) for a, b in zip(batches[:settled], whole, strict=False))
        assert sorted(np.concatenate(batches)) == list(range(count))


@pytest.mark.parametrize(("ranks", "limit"), [(1, 200), (2, None), (2, 100), (3, 64), (2, 40)])
def test_parts_of_a_step_hold_its_molecules_once_and_keep_their_limit(ranks, limit):
    lengths = _lengths(4000)
    for batch in TokenBatches(lengths, 512, 0).epoch(0)[:50]:
        parts = micro_batches(lengths, batch, ranks, limit)
        assert len(parts) == ranks
        assert len({len(mine) for mine in parts}) == 1
        assert sorted(np.concatenate([part for mine in parts for part in mine])) == sorted(batch)
        for part in (part for mine in parts for part in mine):
            assert limit is None or len(part) < 2 or lengths[part].sum() <= limit
        tokens = [sum(int(lengths[part].sum()) for part in mine) for mine in parts]
        assert max(tokens) <= min(tokens) + 2 * len(parts[0]) * lengths[batch].max()


def test_a_step_that_one_rank_can_take_stays_whole():
    lengths = _lengths()
    batch = np.array([5, 3, 4])
    ((whole,),) = micro_batches(lengths, batch, 1, None)
    assert whole is batch


def test_more_ranks_than_molecules_leave_some_without():
    parts = micro_batches(np.array([4, 9]), np.array([1, 0]), 4, 100)
    assert sorted(len(part) for (part,) in parts) == [0, 0, 1, 1]
