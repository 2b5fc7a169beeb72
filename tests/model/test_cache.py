import torch

from gorae.kernels import whole_pages
from gorae.model import Cache


def fill(cache, config, rows, num_tokens, seed=0):
    """Let `rows` remember drawn keys and values; returns those of the first layer."""
    generator = torch.Generator().manual_seed(seed)
    cache.reserve(int(cache.lengths_B[rows].max()) + num_tokens)
    drawn = []
    for layer in range(config.num_layers):
        shape = (rows.stop - rows.start, config.num_heads, num_tokens)
        key, value = (torch.randn(*shape, width, generator=generator) for width in (config.key_dim, config.value_dim))
        cache.extend(layer, rows, key, value)
        drawn.append((key, value))
    cache.lengths_B[rows] += num_tokens
    return drawn


def test_extend_returns_all_that_is_remembered(config):
    cache = Cache(config, 3)
    (first_key, first_value), *_ = fill(cache, config, slice(1, 3), 5)
    cache.reserve(7)
    key = torch.ones(2, config.num_heads, 2, config.key_dim)
    value = torch.ones(2, config.num_heads, 2, config.value_dim)
    keys, values = cache.extend(0, slice(1, 3), key, value)
    assert torch.equal(keys[:, :, :7], torch.cat((first_key, key), dim=2))
    assert torch.equal(values[:, :, :7], torch.cat((first_value, value), dim=2))


def test_rows_of_unequal_length_are_extended_each_at_its_own_end(config):
    cache = Cache(config, 2)
    fill(cache, config, slice(0, 1), 3)
    key = torch.ones(2, config.num_heads, 1, config.key_dim)
    cache.reserve(4)
    keys, _ = cache.extend(0, slice(0, 2), key, torch.ones(2, config.num_heads, 1, config.value_dim))
    assert keys.shape[2] == whole_pages(4)
    assert keys[0, :, 3].eq(1).all()
    assert keys[1, :, 0].eq(1).all()


def test_growing_keeps_what_is_remembered(config):
    cache = Cache(config, 2)
    drawn = fill(cache, config, slice(0, 2), 5)
    cache.reserve(1000)
    for (keys, values), (key, value) in zip(cache.layers, drawn, strict=True):
        assert keys.shape[2] == values.shape[2] >= 1000
        assert torch.equal(keys[:, :, :5], key)
        assert torch.equal(values[:, :, :5], value)
    room = cache.layers[0][0].shape[2]
    cache.reserve(10)
    assert cache.layers[0][0].shape[2] == room


def test_adopting_copies_rows_of_another_cache(config):
    source, cache = Cache(config, 2), Cache(config, 4)
    drawn = fill(source, config, slice(0, 2), 70)
    cache.adopt([3, 0, 1], source, [0, 1, 0])
    assert cache.lengths_B.tolist() == [70, 70, 0, 70]
    for (keys, values), (key, value) in zip(cache.layers, drawn, strict=True):
        assert torch.equal(keys[[3, 0, 1], :, :70], key[[0, 1, 0]])
        assert torch.equal(values[[3, 0, 1], :, :70], value[[0, 1, 0]])

    before = cache.layers[0][0].clone()
    fill(source, config, slice(0, 2), 1, seed=9)
    source.layers[0][0].fill_(7)
    assert torch.equal(cache.layers[0][0], before)


def test_a_row_takes_the_place_of_another_in_the_same_cache(config):
    cache = Cache(config, 3)
    drawn = fill(cache, config, slice(0, 3), 4)
    cache.adopt([0], cache, [2])
    for (keys, _), (key, _) in zip(cache.layers, drawn, strict=True):
        assert torch.equal(keys[0, :, :4], key[2])
        assert torch.equal(keys[1, :, :4], key[1])


@torch.no_grad()
def test_an_adopted_row_decodes_to_the_same_bits(network, config, tokens_BT):
    whole = network(tokens_BT)
    read, cache = Cache(config, 4), Cache(config, 2)
    network(tokens_BT[:, :35], read)
    read.lengths_B += 35
    cache.adopt([0, 1], read, [3, 1])
    for place in range(35, 40):
        found = network(tokens_BT[[3, 1], place][:, None], cache)
        cache.lengths_B += 1
        assert torch.equal(found.hidden_BTD[:, 0], whole.hidden_BTD[[3, 1], place])


def test_pages_copied_out_of_one_row_begin_another(config):
    cache = Cache(config, 3)
    drawn = fill(cache, config, slice(1, 2), 70)
    pages = [cache.copy_page(1, number) for number in range(2)]
    other = Cache(config, 2)
    other.begin(1, pages)
    assert other.lengths_B.tolist() == [0, 64]
    for (keys, values), (key, value) in zip(other.layers, drawn, strict=True):
        assert torch.equal(keys[1, :, :64], key[0, :, :64])
        assert torch.equal(values[1, :, :64], value[0, :, :64])
    cache.layers[0][0].zero_()
    assert torch.equal(pages[1].keys_LHPK[0], drawn[0][0][0, :, 32:64])
    other.begin(1, [])
    assert other.lengths_B.tolist() == [0, 0]


def test_a_resized_cache_keeps_what_fits(config):
    cache = Cache(config, 3)
    drawn = fill(cache, config, slice(0, 3), 70)
    cache.resize(5, 70)
    assert cache.num_tokens == 5 * whole_pages(70)
    assert cache.lengths_B.tolist() == [70, 70, 70, 0, 0]
    cache.resize(2, 130)
    assert cache.lengths_B.tolist() == [70, 70]
    for (keys, values), (key, value) in zip(cache.layers, drawn, strict=True):
        assert keys.shape[:3] == (2, config.key_heads, whole_pages(130))
        assert torch.equal(keys[:, :, :70], key[:2])
        assert torch.equal(values[:, :, :70], value[:2])
    cache.resize(0, 0)
    assert cache.num_tokens == 0
