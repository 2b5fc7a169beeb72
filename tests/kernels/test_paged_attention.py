"""Attention over pages: what a row gets follows from its query and the tokens it sees, wherever they lie."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gorae.kernels import TILE_KEYS

# (heads, key heads, key width, value width); None: values are the beginning of the keys, as latents are
FORMS = [(1, 1, 1, None), (3, 1, 17, 11), (4, 2, 20, 12), (5, 1, 24, None), (16, 1, 80, None), (6, 6, 33, 16)]
few_examples = settings(max_examples=30, deadline=None, derandomize=True)


class Case:
    """Queries of `num_queries` tokens behind `starts`, and what is remembered scattered over shuffled pages."""

    def __init__(self, form, starts, num_queries, *, seed=0, dtype=torch.bfloat16, filler=float("nan")):
        heads, key_heads, width, value_width = form
        self.generator = torch.Generator().manual_seed(seed)
        self.starts, self.latent_width = torch.tensor(starts), None if value_width else max(1, width - 6)
        num_pages = -(-(max(starts) + num_queries) // TILE_KEYS)
        self.query = self.normal(len(starts), num_queries, heads, width)
        lengths = [start + num_queries for start in starts]
        held = [
            [self.normal(key_heads, length, one).to(dtype) for one in (width, value_width or 0)] for length in lengths
        ]
        numbers = torch.randperm(len(starts) * num_pages, generator=self.generator).view(len(starts), num_pages)
        self.table, self.held = numbers, held
        self.pages = [
            torch.full((numbers.numel() + 1, key_heads, TILE_KEYS, one), filler).to(dtype)
            for one in (width, value_width or 0)
        ]
        for row, kinds in enumerate(held):
            for pages, kind in zip(self.pages, kinds, strict=True):
                for number, part in enumerate(kind.split(TILE_KEYS, dim=1)):
                    pages[numbers[row, number], :, : part.shape[1]] = part

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator)

    @property
    def keys_and_values(self):
        keys, values = self.pages
        return (keys, values) if self.latent_width is None else (keys, keys[..., : self.latent_width])

    def attend(self, door, rows=slice(None), queries=slice(None)):
        first = range(self.query.shape[1])[queries].start if self.query.shape[1] else 0
        keys, values = self.keys_and_values
        return door(self.query[rows, queries], keys, values, self.table[rows], self.starts[rows] + first, 0.2)

    def expected(self):
        """Plain softmax attention in float64, row by row."""
        rows = []
        for query, start, (keys, values) in zip(self.query.double(), self.starts.tolist(), self.held, strict=True):
            values = keys[..., : self.latent_width] if self.latent_width else values
            sharing = query.shape[1] // keys.shape[0]
            keys, values = (one.double().repeat_interleave(sharing, dim=0) for one in (keys, values))
            scores = torch.einsum("thk,hsk->hts", query, keys) * 0.2
            hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(start + 1)
            rows.append(torch.einsum("hts,hsv->thv", scores.masked_fill(hidden, float("-inf")).softmax(-1), values))
        return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("starts", "num_queries"), [([0], 1), ([0, 63, 5], 2), ([31, 700], 1), ([0], 70), ([250], 9)])
def test_values_are_those_of_softmax_attention_and_what_nobody_sees_may_be_no_number(
    doors, form, starts, num_queries, dtype
):
    case = Case(form, starts, num_queries, dtype=dtype)
    # float32 sums of some hundred products of unit normals, in weights of up to 1
    torch.testing.assert_close(case.attend(doors.paged_attention).double(), case.expected(), rtol=0, atol=2e-5)


def test_no_queries_and_no_sequences_give_nothing(doors):
    case = Case(FORMS[3], [4, 40], 3)
    assert case.attend(doors.paged_attention, queries=slice(0, 0)).shape == (2, 0, 5, 18)
    assert case.attend(doors.paged_attention, rows=slice(0, 0)).shape == (0, 3, 5, 18)


@few_examples
@given(st.sampled_from(FORMS), st.integers(0, 600), st.integers(1, 70), st.integers(0, 100), st.booleans())
def test_a_query_alone_gets_the_bits_it_gets_in_a_chunk_among_others(doors, form, before, num_queries, seed, narrow):
    dtype = torch.bfloat16 if narrow else torch.float32
    case = Case(form, [before, 3, 77], num_queries, seed=seed, dtype=dtype)
    whole = case.attend(doors.paged_attention)
    half = num_queries // 2
    assert torch.equal(case.attend(doors.paged_attention, queries=slice(half, None)), whole[:, half:])
    for place in {0, half, num_queries - 1}:
        for row in range(3):
            one = slice(row, row + 1), slice(place, place + 1)
            assert torch.equal(case.attend(doors.paged_attention, *one), whole[one])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("starts", "num_queries"), [([2000], 1), ([900, 10, 300], 1), ([300], 40)])
def test_one_and_two_threads_and_other_pages_give_the_same_bits(doors, at_threads, form, starts, num_queries):
    case = Case(form, starts, num_queries)
    one, two = (at_threads(number, lambda: case.attend(doors.paged_attention)) for number in (1, 2))
    assert torch.equal(one, two)
    moved = torch.randperm(len(case.pages[0]), generator=case.generator)
    case.pages = [pages[moved] for pages in case.pages]
    case.table = moved.argsort()[case.table]
    assert torch.equal(case.attend(doors.paged_attention), one)


def test_bfloat16_pages_give_the_bits_of_their_numbers_in_float32(doors):
    for form in FORMS:
        case = Case(form, [10, 290], 12)
        narrow = case.attend(doors.paged_attention)
        case.pages = [pages.float() for pages in case.pages]
        assert torch.equal(case.attend(doors.paged_attention), narrow)
