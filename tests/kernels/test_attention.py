import pytest
import torch

# (heads, key width, value width)
WIDTHS = [(1, 1, 1), (3, 13, 5), (2, 20, 11), (4, 48, 32), (2, 192, 128)]


def causal(num_queries, num_keys):
    """0 where a query may look, -inf after it; the last query stands at the last key."""
    hidden = torch.ones(num_queries, num_keys, dtype=torch.bool).triu(num_keys - num_queries + 1)
    return torch.zeros(1, 1, num_queries, num_keys).masked_fill(hidden, float("-inf"))


def drawn(normal, num_sequences, num_tokens, widths):
    heads, key_dim, value_dim = widths
    shape = (num_sequences, heads, num_tokens)
    return normal(*shape, key_dim), normal(*shape, key_dim), normal(*shape, value_dim)


@pytest.mark.parametrize("num_tokens", [0, 1, 63, 65])
@pytest.mark.parametrize("widths", WIDTHS)
def test_values_and_gradients_are_those_of_softmax_attention(doors, normal, agree, num_tokens, widths):
    scale, mask = widths[1] ** -0.5, causal(num_tokens, num_tokens)

    def plain(query, key, value):
        scores = torch.einsum("bhtk,bhsk->bhts", query, key) * scale + mask.double()
        return torch.einsum("bhts,bhsv->bhtv", scores.softmax(-1), value)

    agree(lambda *qkv: doors.attention(*qkv, mask, scale), plain, *drawn(normal, 2, num_tokens, widths))


def test_gradients_with_more_keys_than_queries_and_a_mask_a_sequence(doors, normal, agree):
    query, key, value = normal(2, 3, 5, 8), normal(2, 3, 40, 8), normal(2, 3, 40, 6)
    mask = torch.cat((causal(5, 40), causal(5, 40).roll(-9, dims=-1)))

    def plain(query, key, value):
        return ((query @ key.mT + mask.double()).softmax(-1)) @ value

    agree(lambda *qkv: doors.attention(*qkv, mask, 1.0), plain, query, key, value)


@pytest.mark.parametrize("widths", WIDTHS)
def test_decoding_step_by_step_gives_the_bits_of_reading_at_once(doors, normal, widths):
    """210 positions: every key page is crossed, and the room behind the last key holds what other tokens left."""
    num_sequences, num_tokens, scale = 3, 210, widths[1] ** -0.5
    query, key, value = drawn(normal, num_sequences, num_tokens, widths)
    whole = doors.attention(query, key, value, causal(num_tokens, num_tokens), scale)
    keys, values = (7 * torch.ones_like(held).repeat(2, 1, 2, 1) for held in (key, value))
    for last in range(num_tokens):
        rows, held = slice(1, 1 + num_sequences), slice(0, last + 1)
        keys[rows, :, last], values[rows, :, last] = key[:, :, last], value[:, :, last]
        step = doors.attention(
            query[:, :, last : last + 1],
            keys[rows, :, held],
            values[rows, :, held],
            torch.zeros(1, 1, 1, last + 1),
            scale,
        )
        assert torch.equal(step[:, :, 0], whole[:, :, last])


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 64), (31, 33), (63, 65), (90, 150)])
def test_a_chunk_of_one_sequence_has_the_bits_of_the_batch(doors, normal, widths, first, last):
    query, key, value = drawn(normal, 3, 150, widths)
    whole = doors.attention(query, key, value, causal(150, 150), 0.2)
    chunk = doors.attention(
        query[1:2, :, first:last], key[1:2, :, :last], value[1:2, :, :last], causal(last - first, last), 0.2
    )
    assert torch.equal(chunk[0], whole[1, :, first:last])


def test_hidden_keys_change_no_bit(doors, normal):
    query, key, value = drawn(normal, 2, 100, (2, 24, 12))
    seen = doors.attention(query[:, :, :50], key[:, :, :50], value[:, :, :50], causal(50, 50), 0.2)
    mask = torch.nn.functional.pad(causal(50, 50), (0, 50), value=float("-inf"))
    assert torch.equal(doors.attention(query[:, :, :50], key, value, mask, 0.2), seen)


@pytest.mark.parametrize("num_tokens", [1, 5, 70])
def test_heads_that_share_keys_give_the_values_and_gradients_of_keys_repeated(doors, normal, agree, num_tokens):
    mask = causal(num_tokens, num_tokens)
    query, key, value = (normal(2, heads, num_tokens, 8) for heads in (6, 2, 2))

    def plain(query, key, value):
        key, value = (held.repeat_interleave(3, dim=1) for held in (key, value))
        return ((query @ key.mT * 0.2 + mask.double()).softmax(-1)) @ value

    agree(lambda *qkv: doors.attention(*qkv, mask, 0.2), plain, query, key, value)
    repeated = (held.repeat_interleave(3, dim=1) for held in (key, value))
    assert torch.equal(doors.attention(query, key, value, mask, 0.2), doors.attention(query, *repeated, mask, 0.2))


@pytest.mark.parametrize("num_sharing", [1, 3])
@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize(("num_queries", "before"), [(1, 0), (1, 300), (4, 63), (8, 250), (70, 31)])
def test_over_pages_attention_has_the_bits_it_has_over_whole_sequences(
    doors, normal, num_sharing, widths, num_queries, before
):
    """Pages lie in any order, and what no query sees is no number."""
    heads, key_dim, value_dim = widths
    starts = torch.tensor([before, before // 2])
    num_pages = -(-(before + num_queries) // 32)
    pages = [torch.full((2 * num_pages + 1, heads, 32, one), float("nan")) for one in (key_dim, value_dim)]
    table = torch.arange(2 * num_pages).flip(0).view(2, num_pages)
    query = normal(2, num_queries, heads * num_sharing, key_dim)
    wholes = []
    for row, start in enumerate(starts.tolist()):
        length = start + num_queries
        key, value = normal(1, heads, length, key_dim), normal(1, heads, length, value_dim)
        for held, new in zip(pages, (key, value), strict=True):
            for number, part in enumerate(new[0].split(32, dim=1)):
                held[table[row, number], :, : part.shape[1]] = part
        mask = causal(num_queries, length)
        wholes.append(doors.attention(query[row : row + 1].transpose(1, 2), key, value, mask, 0.2))
    found = doors.cached_attention(query, *pages, table, starts, 0.2)
    assert torch.equal(found, torch.cat(wholes).transpose(1, 2))


def test_strides_and_threads_change_nothing(doors, normal, at_threads):
    query, key, value = drawn(normal, 4, 160, (3, 24, 16))
    scattered = [held.transpose(1, 2).contiguous().transpose(1, 2) for held in (query, key, value)]
    one = at_threads(1, lambda: doors.attention(query, key, value, causal(160, 160), 0.2))
    two = at_threads(2, lambda: doors.attention(*scattered, causal(160, 160), 0.2))
    assert torch.equal(one, two)
