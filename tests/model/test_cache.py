import pytest
import torch

from gorae.config import cache_bytes_per_token
from gorae.kernels import byte_rows, wide_rows
from gorae.model import Cache


def fill(cache, config, rows, num_tokens, seed=0):
    """Let `rows` remember drawn keys and values of so many more tokens; returns those of every layer."""
    generator = torch.Generator().manual_seed(seed)
    memories, drawn = cache.memories(rows, num_tokens), []
    for memory in memories:
        shape = (rows.stop - rows.start, config.key_heads, num_tokens)
        key, value = (torch.randn(*shape, width, generator=generator) for width in (config.key_dim, config.value_dim))
        memory.extend(key, value)
        drawn.append((key, value))
    cache.lengths_B[rows] += num_tokens
    return drawn


def remembered(cache, layer, row):
    """Keys and values [H, S, ·] of a row."""
    length = int(cache.lengths_B[row])
    return [pages[cache.held[row]].transpose(0, 1).flatten(1, 2)[:, :length] for pages in cache.layers[layer]]


def check_rows(cache, drawn, expected):
    """Row r remembers the first tokens of drawn sequence expected[r][0], expected[r][1] of them."""
    assert cache.lengths_B.tolist() == [length for _, length in expected]
    for layer, kinds in enumerate(drawn):
        for row, (source, length) in enumerate(expected):
            for held, kind in zip(remembered(cache, layer, row), kinds, strict=True):
                assert torch.equal(held, kind[source, :, :length])


def test_rows_of_unequal_length_are_extended_each_at_its_own_end(config):
    cache = Cache(config, 2)
    early = fill(cache, config, slice(0, 1), 33)
    late = fill(cache, config, slice(0, 2), 70, seed=1)
    joined = [
        [torch.cat((one[:1], two[:1]), dim=2) for one, two in zip(*layers, strict=True)]
        for layers in zip(early, late, strict=True)
    ]
    assert cache.lengths_B.tolist() == [103, 70]
    for layer, kinds in enumerate(joined):
        for held, kind in zip(remembered(cache, layer, 0), kinds, strict=True):
            assert torch.equal(held, kind[0])
        for held, kind in zip(remembered(cache, layer, 1), late[layer], strict=True):
            assert torch.equal(held, kind[1])


def test_what_a_layer_remembers_is_found_by_its_table(config):
    cache = Cache(config, 3)
    drawn = fill(cache, config, slice(1, 3), 40)
    (memory, *_) = cache.memories(slice(1, 3), 1)
    keys, values, table, starts = memory.extend(
        torch.ones(2, config.num_heads, 1, config.key_dim), torch.ones(2, config.num_heads, 1, config.value_dim)
    )
    assert starts.tolist() == [40, 40]
    for pages, kind in zip((keys, values), drawn[0], strict=True):
        held = pages[table[:, :2]].transpose(1, 2).flatten(2, 3)
        assert torch.equal(held[:, :, :40], kind)
        assert held[:, :, 40].eq(1).all()


def test_a_row_named_again_shares_whole_pages_and_copies_the_last(config):
    cache = Cache(config, 3)
    drawn = fill(cache, config, slice(0, 3), 70)
    assert cache.book.num_used == 9
    cache.arrange([2, 0, 2, 2])
    check_rows(cache, drawn, [(2, 70), (0, 70), (2, 70), (2, 70)])
    assert cache.held[0][:2] == cache.held[2][:2] == cache.held[3][:2]
    assert len({pages[2] for pages in cache.held}) == 4
    assert cache.book.num_used == 2 + 3 + 3
    fill(cache, config, slice(2, 3), 20, seed=9)
    cache.arrange([0, 1, 3])
    check_rows(cache, drawn, [(2, 70), (0, 70), (2, 70)])
    cache.arrange([])
    assert cache.book.num_used == 0


def test_a_row_takes_the_place_of_another(config):
    cache = Cache(config, 3)
    drawn = fill(cache, config, slice(0, 3), 4)
    cache.arrange([2, 1])
    check_rows(cache, drawn, [(2, 4), (1, 4)])
    assert cache.book.num_used == 2


def test_pages_that_are_kept_begin_other_rows_and_outlive_their_own(config):
    cache = Cache(config, 1)
    drawn = fill(cache, config, slice(0, 1), 70)
    pages = cache.held[0][:2]
    for page in pages:
        cache.book.keep(page)
    cache.arrange([])
    assert (cache.book.num_used, cache.book.num_idle) == (2, 2)
    cache.add_row(pages)
    cache.add_row(pages[:1])
    assert cache.book.num_idle == 0
    check_rows(cache, drawn, [(0, 64), (0, 32)])
    fill(cache, config, slice(0, 2), 5, seed=4)
    cache.take_back(0, 64)
    cache.take_back(1, 32)
    check_rows(cache, drawn, [(0, 64), (0, 32)])
    cache.arrange([])
    for page in pages:
        cache.book.drop(page)
    assert cache.book.num_used == 0


def test_what_is_taken_back_frees_its_pages(config):
    cache = Cache(config, 2)
    drawn = fill(cache, config, slice(0, 2), 100)
    cache.take_back(0, 33)
    cache.take_back(1, 96)
    assert [len(pages) for pages in cache.held] == [2, 3]
    check_rows(cache, drawn, [(0, 33), (1, 96)])
    assert not cache.table_BM[0, 2:].any()


def test_padding_takes_no_pages_of_a_bounded_cache(config):
    cache = Cache(config, 2, num_pages=4)
    for row, length in enumerate((70, 5)):
        cache.reserve(row, length)
    drawn = fill(cache, config, slice(0, 2), 70)
    cache.take_back(1, 5)
    check_rows(cache, drawn, [(0, 70), (1, 5)])
    assert cache.book.num_used == 4
    with pytest.raises(AssertionError, match="all 4 pages are used"):
        cache.reserve(1, 33)


def test_in_int8_a_token_is_held_as_rows_of_bytes_and_its_page_is_copied_and_stored_whole(config):
    cache = Cache(config, 1, num_pages=4, is_fast=True, cache_type="int8")
    cache.reserve(0, 40)
    (memory, *_) = cache.memories(slice(0, 1), 40)
    latents_B1TK = torch.randn(1, 1, 40, config.latent_dim + config.rope_dim)
    keys, values, table, _ = memory.extend(latents_B1TK)
    cache.lengths_B += 40
    held = keys[table[0]].flatten(0, 2)[:40]
    assert torch.equal(held, byte_rows(latents_B1TK[0, 0]))
    assert torch.equal(wide_rows(values[table[0]].flatten(0, 2)[:40]), wide_rows(held)[:, : config.latent_dim])
    cache.arrange([0, 0])
    first, second = cache.held
    assert first[0] == second[0]
    assert torch.equal(keys[second[1], :, :8], keys[first[1], :, :8])
    stored = cache.page_bytes(first[0])
    assert len(stored) == 32 * cache_bytes_per_token(config, is_fast=True, cache_type="int8")
    keys[first[0]] = 0
    cache.fill_page(first[0], stored)
    assert torch.equal(keys[first[0], 0], held[:32])


@torch.no_grad()
def test_a_row_that_was_copied_decodes_to_the_same_bits(network, config, tokens_BT):
    whole = network(tokens_BT)
    cache = Cache(config, 4)
    network(tokens_BT[:, :35], cache)
    cache.lengths_B += 35
    cache.arrange([3, 1, 3])
    for place in range(35, 40):
        found = network(tokens_BT[[3, 1, 3], place][:, None], cache)
        cache.lengths_B += 1
        assert torch.equal(found.hidden_BTD[:, 0], whole.hidden_BTD[[3, 1, 3], place])
