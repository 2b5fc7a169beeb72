"""Rows of tokens as a tree: what neighbouring rows begin with alike is computed once, and their padding not at all.

Nouns: a node is a token behind all those before it, and belongs to the first row that has it; a branch is rows whose
attention is computed in one call. A token's features follow from the tokens before it alone, whatever else is
computed, so a node's are those of every row it is in, to the bit. Knows no weight.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gorae.kernels import attention


class Branch(NamedTuple):
    """Nodes that ask and nodes that are looked at, row by row; both are filled up to the longest row."""

    queries_BT: Tensor
    keys_BS: Tensor
    mask_B1TS: Tensor


@dataclass(frozen=True)
class Tree:
    """`nodes_BT` has the node of every token of the rows, and of padding any; `answers_N` where, in the outcomes of all
    branches one behind the other, each node finds its own.
    """

    token_ids_N: Tensor
    positions_N: Tensor
    nodes_BT: Tensor
    answers_N: Tensor
    branches: list[Branch]

    def attend(self, query_1HNK: Tensor, key_1JNK: Tensor, value_1JNV: Tensor, scale: float) -> Tensor:
        """`attention` of every node over those that its row has up to it, [1, N, H, V]."""
        num_heads = query_1HNK.shape[1]
        query_NF, key_NF, value_NF = (x[0].transpose(0, 1).flatten(1) for x in (query_1HNK, key_1JNK, value_1JNV))
        outcomes = []
        for queries_BT, keys_BS, mask_B1TS in self.branches:
            query = in_heads(F.embedding(queries_BT, query_NF), num_heads)
            key, value = (in_heads(F.embedding(keys_BS, x_NF), key_1JNK.shape[1]) for x_NF in (key_NF, value_NF))
            outcomes.append(attention(query, key, value, mask_B1TS, scale).transpose(1, 2).flatten(0, 1).flatten(1))
        return F.embedding(self.answers_N, torch.cat(outcomes))[None].unflatten(-1, (num_heads, -1))


def in_heads(rows_BTF: Tensor, num_heads: int) -> Tensor:
    return rows_BTF.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def shared_tokens(token_ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """How many tokens each row begins with as the row before it does."""
    both_B = torch.minimum(lengths_B[1:], lengths_B[:-1])
    alike_B = (token_ids_BT[1:] == token_ids_BT[:-1]).long().cumprod(1).sum(1)
    return F.pad(torch.minimum(alike_B, both_B), (1, 0))


def tree_of(token_ids_BT: Tensor, lengths_B: Tensor) -> Tree:
    """The tree of rows of so many tokens each, at least one in all; behind these a row is padding."""
    device, (num_rows, num_tokens) = token_ids_BT.device, token_ids_BT.shape
    shared_B = shared_tokens(token_ids_BT, lengths_B)
    own_B = lengths_B - shared_B
    places_T = torch.arange(num_tokens, device=device)
    is_own_BT = (places_T >= shared_B[:, None]) & (places_T < lengths_B[:, None])
    nodes_BT = torch.zeros_like(token_ids_BT)
    nodes_BT[is_own_BT] = torch.arange(int(own_B.sum()), device=device)
    for row, shared in enumerate(shared_B.tolist()):
        nodes_BT[row, :shared] = nodes_BT[row - 1, :shared]
    answers_N = torch.empty(int(own_B.sum()), dtype=torch.long, device=device)
    branches, num_answers = [], 0
    for goes_on in (False, True):  # rows that are whole, and the rest of others: apart, so that neither is much padding
        rows_R = ((own_B > 0) & ((shared_B > 0) == goes_on)).nonzero()[:, 0]
        if not len(rows_R):
            continue
        places_RT = shared_B[rows_R, None] + places_T[: int(own_B[rows_R].max())]
        keys_RS = nodes_BT[rows_R, : int(lengths_B[rows_R].max())]
        queries_RT = nodes_BT[rows_R].gather(1, places_RT.clamp(max=num_tokens - 1))
        is_hidden_RTS = places_T[: keys_RS.shape[1]] > places_RT[..., None]
        mask_RTS = torch.zeros(is_hidden_RTS.shape, device=device).masked_fill_(is_hidden_RTS, float("-inf"))
        branches.append(Branch(queries_RT, keys_RS, mask_RTS[:, None]))
        is_own_RT = places_RT < lengths_B[rows_R, None]
        answers_N[queries_RT[is_own_RT]] = num_answers + is_own_RT.flatten().nonzero()[:, 0]
        num_answers += is_own_RT.numel()
    positions_BT = places_T.expand(num_rows, -1)
    return Tree(token_ids_BT[is_own_BT], positions_BT[is_own_BT], nodes_BT, answers_N, branches)
