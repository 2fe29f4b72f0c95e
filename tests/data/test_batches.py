import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from groundup.data.batches import (
    IGNORED,
    Batches,
    DeviceBatches,
    evaluation_batches,
    evaluation_windows,
    get_batch,
    permute,
)
from groundup.errors import DataError


class Counting:
    """A store whose token i is the number i, so that a batch shows where it was taken."""

    def __init__(self, tokens: int):
        self.tokens = np.arange(tokens, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.tokens)

    def gather(self, starts, length):
        assert min(starts) >= 0
        assert max(starts) + length <= len(self)
        return self.tokens[np.asarray(starts)[:, None] + np.arange(length)]


def epoch_starts(batches: Batches, epoch: int) -> list[int]:
    """The starts of one epoch, which may begin and end within a step."""
    first, last = epoch * batches.windows, (epoch + 1) * batches.windows
    steps = range(first // batches.batch_size, math.ceil(last / batches.batch_size))
    starts = np.concatenate([batches.starts(step) for step in steps]).tolist()
    begin = first - steps[0] * batches.batch_size
    return starts[begin : begin + batches.windows]


some_data = st.fixed_dictionaries(
    {"tokens": st.integers(2, 400), "batch_size": st.integers(1, 9), "context_length": st.integers(1, 40)}
)


def shuffled(tokens: int, batch_size: int, context_length: int, seed: int = 0) -> Batches:
    assume(tokens > context_length)
    return Batches(Counting(tokens), batch_size, context_length, seed)


class TestShuffled:
    @settings(deadline=None)
    @given(data=some_data, epoch=st.integers(0, 5), seed=st.integers(0, 2**40))
    def test_an_epoch_visits_every_window_once_and_windows_never_overlap(self, data, epoch, seed):
        batches = shuffled(**data, seed=seed)
        starts = sorted(epoch_starts(batches, epoch))
        context_length, tokens = data["context_length"], data["tokens"]
        assert all(b - a == context_length for a, b in pairwise(starts))
        assert starts[0] >= 0
        assert starts[-1] + context_length + 1 <= tokens
        # All that fit but one, which leaves room for the windows to begin elsewhere in each epoch.
        assert len(starts) == max(1, (tokens - 1) // context_length - 1)

    def test_each_epoch_has_an_order_and_an_offset_of_its_own(self):
        batches = Batches(Counting(1000), 7, 10, seed=3)
        epochs = [epoch_starts(batches, epoch) for epoch in range(40)]
        orders = {tuple(start // 10 for start in starts) for starts in epochs}
        offsets = {min(starts) for starts in epochs}
        assert len(orders) == 40
        assert len(offsets) > 10
        assert offsets <= set(range(20))

    def test_every_token_is_seen_as_an_input_and_as_a_target_sooner_or_later(self):
        for tokens in range(30, 45):
            batches = Batches(Counting(tokens), 4, 8, seed=0)
            inputs, targets = (
                {token for step in range(400) for token in batches.batch(step)[which].flatten().tolist()}
                for which in (0, 1)
            )
            assert inputs == set(range(tokens - 1))
            assert targets == set(range(1, tokens))

    def test_how_many_epochs_have_passed(self):
        batches = Batches(Counting(1000), 7, 10, seed=3)
        assert batches.windows == 98
        assert [batches.epoch(step) for step in (0, 7, 14, 21)] == [0.0, 0.5, 1.0, 1.5]


@pytest.mark.parametrize("order", ["shuffled", "random"])
class TestAnyOrder:
    def test_a_batch_depends_on_seed_and_step_and_on_nothing_else(self, order):
        first = Batches(Counting(500), 6, 10, 5, order)
        steps = (0, 3, 17, 10**9)
        forwards = [first.batch(step) for step in steps]
        np.random.seed(1)
        torch.manual_seed(1)
        backwards = [Batches(Counting(500), 6, 10, 5, order).batch(step) for step in reversed(steps)]
        for (x, y), (x_again, y_again) in zip(forwards, reversed(backwards), strict=True):
            assert torch.equal(x, x_again)
            assert torch.equal(y, y_again)
        other_seed = Batches(Counting(500), 6, 10, 6, order)
        assert not np.array_equal(first.starts(0), other_seed.starts(0))
        assert not np.array_equal(first.starts(0), first.starts(1))

    def test_making_batches_draws_no_random_numbers(self, order):
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        Batches(Counting(500), 6, 10, 5, order).batch(3)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])

    def test_targets_are_the_inputs_moved_on_by_one(self, order):
        x, y = Batches(Counting(500), 6, 10, 5, order).batch(2)
        assert x.shape == y.shape == (6, 10)
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(y, x + 1)
        assert torch.equal(x - x[:, :1], torch.arange(10).expand(6, 10))

    @pytest.mark.parametrize("world_size", [1, 2, 3, 6])
    def test_ranks_share_the_sequences_of_a_step(self, order, world_size):
        batches = Batches(Counting(500), 6, 10, 5, order)
        for step in (0, 8):
            shares = [batches.batch(step, rank, world_size)[0] for rank in range(world_size)]
            assert {len(share) for share in shares} == {6 // world_size}
            assert torch.equal(torch.cat(shares), batches.batch(step)[0])

    def test_a_data_set_of_one_sequence_is_enough_and_a_shorter_one_is_refused(self, order):
        x, y = Batches(Counting(11), 2, 10, 0, order).batch(0)
        assert x.tolist() == [list(range(10))] * 2
        assert y.tolist() == [list(range(1, 11))] * 2
        with pytest.raises(DataError, match=r"10 tokens.*context_length = 10 needs 11.*shorter context"):
            Batches(Counting(10), 2, 10, 0, order)


def test_random_windows_are_spread_evenly():
    batches = Batches(Counting(100), 32, 7, seed=0, order="random")
    assert_uniform(Counter(start for step in range(1000) for start in batches.starts(step).tolist()), values=93)


@pytest.mark.parametrize(("rank", "world_size"), [(0, 4), (0, 7), (2, 2), (-1, 2)])
def test_ranks_that_would_lose_sequences_are_refused(rank, world_size):
    with pytest.raises(ValueError, match=r"batch_size = 6|rank = "):
        Batches(Counting(500), 6, 10, 5).batch(0, rank, world_size)


def test_an_order_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="sorted"):
        Batches(Counting(100), 2, 10, 0, order="sorted")


class TestPermutation:
    @settings(deadline=None)
    @given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
    def test_every_number_comes_once(self, size, key):
        assert sorted(permute(np.arange(size, dtype=np.uint64), size, key)) == list(range(size))

    @pytest.mark.parametrize("size", [4**k + d for k in range(1, 7) for d in (-1, 0, 1)])
    def test_sizes_around_a_power_of_four_are_permuted_too(self, size):
        assert sorted(permute(np.arange(size, dtype=np.uint64), size, key=9)) == list(range(size))

    @settings(deadline=None)
    @given(size=st.integers(1, 2**45), data=st.data(), key=st.integers(0, 2**64 - 1))
    def test_a_place_has_the_same_number_whatever_is_asked_beside_it(self, size, data, key):
        places = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=8))
        together = permute(np.array(places, dtype=np.uint64), size, key).tolist()
        assert together == [int(permute(np.array([p], dtype=np.uint64), size, key)[0]) for p in places]
        assert len(set(together)) == len(set(places))
        assert all(0 <= number < size for number in together)

    def test_a_long_order_shows_no_trace_of_the_one_it_came_from(self):
        size = 20_000
        order = permute(np.arange(size, dtype=np.uint64), size, key=1)
        correlation = np.corrcoef(np.arange(size), order)[0, 1]
        assert abs(correlation) < 5 / math.sqrt(size)
        # Of a random order, one step in half goes up, and neighbours stay neighbours about twice.
        assert abs((np.diff(order) > 0).mean() - 0.5) < 5 / math.sqrt(12 * size)
        assert (np.abs(np.diff(order)) == 1).sum() < 12


class TestOldSeeds:
    """A run must be repeatable years later: these numbers may never change."""

    def test_permutations(self):
        assert permute(np.arange(10, dtype=np.uint64), 10, key=0).tolist() == [0, 9, 2, 3, 5, 6, 8, 4, 7, 1]
        expected = [186629, 977468, 386436, 734566, 952999, 749753, 23886, 377753]
        assert permute(np.arange(8, dtype=np.uint64), 1_000_003, key=123456789).tolist() == expected

    @pytest.mark.parametrize(
        ("order", "expected"),
        [
            ("shuffled", [[444, 468, 980, 708], [4, 684, 484, 780], [758, 702, 110, 302], [112, 776, 640, 448]]),
            ("random", [[908, 912, 805, 680], [598, 746, 53, 748], [221, 473, 344, 827], [921, 910, 242, 861]]),
        ],
    )
    def test_batches(self, order, expected):
        batches = Batches(Counting(1000), 4, 8, seed=7, order=order)
        assert [batches.starts(step).tolist() for step in (0, 1, 40, 1_000_000)] == expected


class TestEvaluation:
    @settings(deadline=None)
    @given(tokens=st.integers(2, 300), context_length=st.integers(1, 40), batch_size=st.integers(1, 9))
    def test_every_token_but_the_first_is_scored_exactly_once(self, tokens, context_length, batch_size):
        scored = []
        for x, y in evaluation_batches(Counting(tokens), context_length, batch_size):
            assert len(x) <= batch_size
            assert x.shape == y.shape
            assert x.shape[1] <= context_length
            assert torch.equal(y, x + 1)
            scored += y.flatten().tolist()
        assert sorted(scored) == list(range(1, tokens))

    @settings(deadline=None)
    @given(tokens=st.integers(2, 300), context_length=st.integers(1, 40), limit=st.integers(1, 50))
    @example(tokens=24, context_length=10, limit=2)
    def test_a_limit_is_kept_and_its_windows_are_spread_over_the_split(self, tokens, context_length, limit):
        windows = list(evaluation_windows(tokens, context_length, limit))
        everything = list(evaluation_windows(tokens, context_length))
        assert len(windows) == min(limit, len(everything))
        assert set(windows) <= set(everything)
        places = [start // context_length for start, _ in windows]
        gaps = [b - a for a, b in pairwise([*places, len(everything)])]
        assert max(gaps) <= math.ceil(len(everything) / limit) + 1
        assert min(gaps) >= 1

    @pytest.mark.parametrize("tokens", [0, 1])
    def test_a_split_without_a_target_is_refused(self, tokens):
        with pytest.raises(DataError, match=rf"{tokens} tokens.*at least 2"):
            list(evaluation_windows(tokens, 8))


def assert_uniform(counts: Counter, values: int) -> None:
    """Every value 0..values-1 within five standard deviations of its expected count."""
    draws = counts.total()
    expected, deviation = draws / values, math.sqrt(draws * (1 / values) * (1 - 1 / values))
    assert set(counts) == set(range(values))
    assert max(abs(count - expected) for count in counts.values()) < 5 * deviation


class TestGetBatch:
    def test_windows_are_uniform_over_every_start_that_fits(self):
        torch.manual_seed(0)
        dataset, starts = np.arange(100), Counter()
        for _ in range(1000):
            x, y = get_batch(dataset=dataset, batch_size=32, context_length=7, device="cpu")
            assert x.shape == y.shape == (32, 7)
            assert x.dtype == y.dtype == torch.int64
            assert torch.equal(y, x + 1)
            starts.update(x[:, 0].tolist())
        assert_uniform(starts, values=93)

    @pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.int64])
    def test_a_memory_map_of_any_integers_is_read(self, tmp_path, dtype):
        np.save(tmp_path / "tokens.npy", np.arange(40_000, 40_020).astype(dtype))
        mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
        x, y = get_batch(mapped, 64, 19, "cpu")
        assert torch.equal(x, torch.arange(40_000, 40_019).expand(64, 19))
        assert torch.equal(y, x + 1)

    def test_the_same_seed_gives_the_same_batch(self):
        batches = []
        for _ in range(2):
            torch.manual_seed(5)
            batches.append(get_batch(np.arange(1000), 8, 10, "cpu")[0])
        assert torch.equal(*batches)

    def test_a_device_that_does_not_exist_is_an_error(self):
        with pytest.raises((RuntimeError, AssertionError)):
            get_batch(np.arange(100), 2, 7, "cuda:99")

    @pytest.mark.parametrize(
        ("dataset", "match"),
        [
            (np.arange(7), r"7 tokens.*context_length = 7 needs 8"),
            (np.zeros((4, 20), np.int64), r"2-D of int64; expected 1-D integers"),
            (np.zeros(20), r"1-D of float64; expected 1-D integers"),
        ],
    )
    def test_a_dataset_that_cannot_be_used_is_refused(self, dataset, match):
        with pytest.raises(DataError, match=match):
            get_batch(dataset, 2, 7, "cpu")


class Masked(Counting):
    """Every third token counts."""

    def gather_counts(self, starts, length):
        return self.gather(starts, length) % 3 == 0


some_documents = st.lists(st.integers(2, 50), min_size=1, max_size=12)


class TestDocuments:
    """Sequences that are documents, or parts of long ones."""

    @settings(deadline=None)
    @given(
        sizes=some_documents, context_length=st.integers(1, 20), batch_size=st.integers(1, 7), seed=st.integers(0, 99)
    )
    @pytest.mark.parametrize("masked", [False, True])
    def test_an_epoch_has_every_pair_of_tokens_of_a_document_once(
        self, masked, sizes, context_length, batch_size, seed
    ):
        offsets = np.cumsum([0, *sizes]).astype(np.uint64)
        document = np.repeat(np.arange(len(sizes)), sizes)
        batches = Batches(
            Masked(sum(sizes)), batch_size, context_length, seed, documents=offsets, masked=masked
        )  # fmt: skip
        pairs: list[tuple[int, int]] = []
        sequences = 0
        for step in range(math.ceil(batches.windows / batch_size)):
            x, y = batches.batch(step)
            assert x.shape == y.shape
            assert x.shape[1] <= context_length
            assert batches.counted(step) == int((y != IGNORED).sum())
            for inputs, targets in zip(x.tolist(), y.tolist(), strict=True):
                sequences += 1
                if sequences > batches.windows:
                    continue  # of the next epoch
                # A sequence begins where a document does, or a whole number of contexts after it.
                assert (inputs[0] - int(offsets[document[inputs[0]]])) % context_length == 0
                pairs += [(a, b) for a, b in zip(inputs, targets, strict=True) if b != IGNORED]
        within = [(a, a + 1) for a in range(sum(sizes) - 1) if document[a] == document[a + 1]]
        assert sorted(pairs) == [(a, b) for a, b in within if not masked or b % 3 == 0]

    def test_epochs_have_another_order_and_a_step_is_the_same_whenever_it_is_asked_for(self):
        offsets = np.arange(0, 2001, 20, dtype=np.uint64)

        def make(order="shuffled"):
            return Batches(Counting(2000), 10, 64, 5, order, documents=offsets)

        epochs = [
            [int(start) for step in range(10 * e, 10 * e + 10) for start in make().starts(step)] for e in range(3)
        ]
        assert all(sorted(epoch) == list(range(0, 2000, 20)) for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2] != sorted(epochs[2])
        for order in ("shuffled", "random"):
            assert torch.equal(make(order).batch(7)[0], make(order).batch(7)[0])
        assert make().epoch(20) == 2.0
        assert make().tokens(3) == 190

    @pytest.mark.parametrize(
        "documents", [None, np.array([0, 5, 30, 32, 90, 120], np.uint64)], ids=["stream", "documents"]
    )
    def test_ranks_and_micro_batches_share_the_weight_of_a_step(self, documents):
        batches = Batches(Masked(120), 8, 16, 3, documents=documents, masked=True)
        whole = batches.batch(2)[1]
        counted = int((whole != IGNORED).sum())
        parts = []
        for rank in range(2):
            device = DeviceBatches(
                batches, micro_batches=2, vocab_size=120, device="cpu", rank=rank, world_size=2, source=""
            )
            parts += [(y, weight) for _, y, weight in device.micro_batches(2)]
        for y, weight in parts:
            assert weight == pytest.approx(2 * int((y != IGNORED).sum()) / counted)
        targets = sorted(i for y, _ in parts for i in y.flatten().tolist() if i != IGNORED)
        assert targets == sorted(i for i in whole.flatten().tolist() if i != IGNORED)

    def test_a_step_in_which_nothing_counts_has_weight_0(self):
        class Nothing(Counting):
            def gather_counts(self, starts, length):
                return np.zeros((len(starts), length), bool)

        device = DeviceBatches(
            Batches(Nothing(100), 4, 8, 0, masked=True), micro_batches=2, vocab_size=100, device="cpu"
        )  # fmt: skip
        assert [weight for _, _, weight in device.micro_batches(0)] == [0, 0]

    @settings(deadline=None)
    @given(
        sizes=some_documents, context_length=st.integers(1, 20), batch_size=st.integers(1, 7), limit=st.integers(0, 9)
    )
    @pytest.mark.parametrize("documents", [False, True])
    def test_evaluation_scores_what_counts_once(self, documents, sizes, context_length, batch_size, limit):
        offsets = np.cumsum([0, *sizes]).astype(np.uint64)
        store = Masked(sum(sizes))
        found = evaluation_batches(
            store, context_length, batch_size, limit, documents=offsets if documents else None, masked=True
        )
        rows = [(x, y) for xs, ys in found for x, y in zip(xs.tolist(), ys.tolist(), strict=True)]
        pairs = [(a, b) for x, y in rows for a, b in zip(x, y, strict=True) if b != IGNORED]
        first = {int(offset) for offset in offsets} if documents else {0}
        expected = [(a, a + 1) for a in range(sum(sizes) - 1) if a + 1 not in first and (a + 1) % 3 == 0]
        if limit == 0:
            assert sorted(pairs) == expected
        else:
            assert set(pairs) <= set(expected)
            assert len(set(pairs)) == len(pairs)
            assert len(rows) <= limit
            assert bool(rows) == bool(expected)
        assert all(any(target != IGNORED for target in y) for _, y in rows)

    def test_documents_without_a_target_are_refused(self):
        with pytest.raises(DataError, match="two tokens"):
            Batches(Counting(3), 1, 8, 0, documents=np.array([0, 1, 2, 3], np.uint64))
