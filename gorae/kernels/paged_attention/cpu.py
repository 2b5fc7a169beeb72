"""`paged_attention` by the compiled kernel (cpu.cc); fast mode does not learn, so there is no gradient."""

from typing import Any

import torch
from torch import Tensor

from gorae.kernels.backend import wants_gradient
from gorae.kernels.byte_rows.reference import row_bytes, row_width


def paged_attention_cpu(
    native: Any, query: Tensor, keys: Tensor, values: Tensor, table: Tensor, starts: Tensor, scale: float
) -> Tensor:
    assert not wants_gradient(query, keys, values), "attention over pages has no gradient"
    assert table.device == starts.device == query.device, f"pages on the CPU, their table on {table.device}"
    query = query if query.stride(-1) == 1 else query.contiguous()
    num_sequences, num_queries, num_heads, key_width = query.shape
    _, key_heads, page_tokens, value_width = values.shape
    assert keys.dtype == values.dtype, f"keys of {keys.dtype}, values of {values.dtype}"
    held_width = key_width
    if keys.dtype == torch.int8:
        held_width, value_width = row_bytes(key_width), row_width(value_width)
    assert keys.shape == (*values.shape[:3], held_width), f"keys {keys.shape} for values {values.shape}"
    assert keys.stride(-1) == values.stride(-1) == 1, "the numbers of a token lie side by side"
    assert table.dtype == starts.dtype == torch.long, f"a table of {table.dtype}, starts of {starts.dtype}"
    table, starts = table if table.stride(-1) == 1 else table.contiguous(), starts.contiguous()
    y = torch.empty(num_sequences, num_queries, num_heads, value_width)
    native.paged_attention(
        (query.data_ptr(), query.stride(0), query.stride(2), query.stride(1)),
        *((pages.data_ptr(), *pages.stride()[:3]) for pages in (keys, values)),
        keys.itemsize,
        ((table.data_ptr(), table.stride(0), page_tokens), starts.data_ptr()),
        (num_sequences, num_heads, key_heads, num_queries, key_width, value_width),
        scale,
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y
