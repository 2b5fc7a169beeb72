"""The network every stage calls: token ids in, features out, logits by the head.

Training passes whole sequences; decoding passes a cache and the rows it works on. Both run the same lines.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gorae.config import ModelConfig
from gorae.kernels import Routing, linear, rms_norm, rotary_angles
from gorae.model.block import Block
from gorae.model.cache import Cache, LayerMemory
from gorae.model.gqa import GroupedAttention
from gorae.model.mla import LatentAttention, absorbed_matrices
from gorae.model.moe import Replay
from gorae.model.mtp import NextTokenModule
from gorae.model.rope import angle_scale, rotary_frequencies
from gorae.model.tree import Tree, tree_of


class Features(NamedTuple):
    """What a forward pass yields: normalised features for the head, and the routers' decisions layer by layer."""

    hidden_BTD: Tensor
    routings: list[Routing]


class Network(nn.Module):
    """A network of the configured shape on one device; weights are drawn from `seed`. Its head may be its embedding.

    With `recompute_blocks` what goes into each block is kept for the gradient, and what is within is computed once
    more: to the bit, as nothing in a block is random.

    It computes in float32. Where it is not to learn, a parameter may be replaced by what `gorae.kernels` takes in its
    place: a tensor in a narrower type, FP8 with its scales, a list of matrices instead of the stacked experts.
    """

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.recompute_blocks = False
        self.embedding_WD = nn.Parameter(torch.empty(config.vocab_size, config.model_dim))
        self.blocks = nn.ModuleList(Block(config, dense=config.is_dense(i)) for i in range(config.num_layers))
        self.norm_D = nn.Parameter(torch.ones(config.model_dim))
        self.head_WD = None if config.tie_embeddings else nn.Parameter(torch.empty(self.embedding_WD.shape))
        self.mtp = nn.ModuleList(NextTokenModule(config) for _ in range(config.num_mtp_modules))
        self.draw_weights(seed)

    @property
    def device(self) -> torch.device:
        """Where the weights lie, and where token ids are to be given."""
        return self.embedding_WD.device

    @property
    def is_fast(self) -> bool:
        """Whether attention takes the form of fast mode; latent attention then has the matrices of that form."""
        return next(self.attentions()).is_fast

    @is_fast.setter
    def is_fast(self, is_fast: bool) -> None:
        for attention in self.attentions():
            attention.is_fast = is_fast

    def attentions(self) -> Iterator[GroupedAttention | LatentAttention]:
        for module in self.modules():
            if isinstance(module, GroupedAttention | LatentAttention):
                yield module

    @torch.no_grad()
    def draw_weights(self, seed: int) -> None:
        """Normal weights of the configured deviation for every matrix; norms stay one."""
        if self.embedding_WD.is_meta:  # without memory there is nothing to draw
            return
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=self.config.init_std, generator=generator)

    def forward(
        self,
        token_ids_BT: Tensor,
        cache: Cache | None = None,
        rows: slice | None = None,
        *,
        replay: Sequence[Replay] = (),
    ) -> Features:
        """Features of every position; with a cache, of the tokens that follow what `rows` hold, which are remembered.

        token_ids_BT: [B, T] integers below vocab_size. Padding goes on the right: no token sees what follows it. A
        row's length is for the caller to raise, by the tokens that are no padding. There is no gradient with a cache.
        `replay` has for each layer with experts, the first one first, the ways that the tokens are to take.
        """
        if cache is None:
            return self.run_blocks(token_ids_BT, first_place(token_ids_BT), replay=replay)
        rows = rows or slice(0, token_ids_BT.shape[0])
        memories = cache.memories(rows, token_ids_BT.shape[1])
        return self.run_blocks(token_ids_BT, memories[0].places.starts_B, memories, replay)

    def read_rows(self, token_ids_BT: Tensor, lengths_B: Tensor) -> Features:
        """What `forward` gives for rows of so many tokens each, bit for bit; of padding, what it gives for any token.

        Padding costs no time, nor does what a row begins with as the row before it does. Exact mode only.
        """
        tree = tree_of(token_ids_BT, lengths_B)
        features = self.run_blocks(tree.token_ids_N[None], tree.positions_N, tree=tree)
        nodes_M = tree.nodes_BT.flatten()
        routings = [Routing(*(held.index_select(0, nodes_M) for held in one)) for one in features.routings]
        return Features(F.embedding(tree.nodes_BT, features.hidden_BTD[0]), routings)

    def run_blocks(
        self,
        token_ids_BT: Tensor,
        start_B: Tensor,
        memories: list[LayerMemory] | None = None,
        replay: Sequence[Replay] = (),
        tree: Tree | None = None,
    ) -> Features:
        """With a tree, the tokens are its nodes and `start_B` their positions."""
        if tree is None:
            angles, sight = self.places(start_B, token_ids_BT.shape[1], is_masked=memories is None)
        else:
            angles, sight = self.angles(start_B[None]), tree
        x_BTD = self.embed(token_ids_BT)
        routings = []
        for layer, block in enumerate(self.blocks):
            way = replay[len(routings)] if replay else None
            given = angles, sight, memories[layer] if memories else None, way
            x_BTD, routing = self.recomputed(block, x_BTD, *given) if self.recomputes else block(x_BTD, *given)
            if routing is not None:
                routings.append(routing)
        return Features(rms_norm(x_BTD, self.norm_D, self.config.norm_eps), routings)

    @property
    def recomputes(self) -> bool:
        """Whether what is computed now is to be computed again for its gradient."""
        return self.recompute_blocks and torch.is_grad_enabled()

    def recomputed(self, compute: Callable[..., Any], *given: Any) -> Any:
        """compute(*given), of whose way nothing is kept for the gradient but what was given."""
        return checkpoint(compute, *given, use_reentrant=False, preserve_rng_state=False)

    def embed(self, token_ids_BT: Tensor) -> Tensor:
        return F.embedding(token_ids_BT, self.embedding_WD).float()

    def places(self, start_B: Tensor, num_tokens: int, *, is_masked: bool = True) -> tuple[Tensor, Tensor | None]:
        """Rotary angles [2, B, 1, T, R/2] and causal mask [B, 1, T, S] of `num_tokens` tokens from each start.

        Attention over pages takes no mask: it is causal.
        """
        positions_BT = start_B[:, None] + torch.arange(num_tokens, device=start_B.device)
        angles = self.angles(positions_BT)
        if self.is_fast or not is_masked:
            return angles, None
        hidden_BTS = torch.arange(int(start_B.max()) + num_tokens, device=start_B.device) > positions_BT[..., None]
        mask_BTS = torch.zeros(hidden_BTS.shape, device=start_B.device).masked_fill_(hidden_BTS, float("-inf"))
        return angles, mask_BTS[:, None]

    def angles(self, positions_BT: Tensor) -> Tensor:
        frequencies = rotary_frequencies(self.config, positions_BT.device)
        return rotary_angles(positions_BT, frequencies, angle_scale(self.config))[:, :, None]

    def predict_further(self, features: Features, token_ids_BT: Tensor) -> list[Features]:
        """Features of the MTP modules, depth by depth: entry d at position t predicts token t + 2 + d.

        The result of depth d covers the first T - 1 - d positions.
        """
        predictions = []
        hidden = features.hidden_BTD
        for depth, module in enumerate(self.mtp, start=1):
            following = self.embed(token_ids_BT[:, depth:])
            angles, mask = self.places(first_place(token_ids_BT), following.shape[1])
            hidden, routing = module(hidden[:, : following.shape[1]], following, angles, mask)
            predictions.append(Features(hidden, [routing]))
        return predictions

    def predict_next(self, hidden_BTD: Tensor, next_ids_BT: Tensor, cache: Cache, rows: slice) -> Tensor:
        """Features of the first MTP module, of places that follow what `rows` of a cache of its own hold.

        hidden_BTD are features of tokens, next_ids_BT the tokens after these; the result predicts those after them.
        """
        (memory,) = cache.memories(rows, next_ids_BT.shape[1])
        angles, mask = self.places(memory.places.starts_B, next_ids_BT.shape[1], is_masked=False)
        return self.mtp[0](hidden_BTD, self.embed(next_ids_BT), angles, mask, memory)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 logits [..., W] of features [..., D]."""
        return linear(hidden, self.embedding_WD if self.head_WD is None else self.head_WD)


def first_place(token_ids_BT: Tensor) -> Tensor:
    """Where whole sequences start."""
    return torch.zeros(1, dtype=torch.long, device=token_ids_BT.device)


def made_fast(network: Network) -> Network:
    """Give `network` the form of fast mode, for good: it does not learn any more. Returns the same network."""
    network.requires_grad_(False)
    for attention in network.attentions():
        if isinstance(attention, LatentAttention):
            pair = absorbed_matrices(attention.latent_up_HKVC, network.config)
            del attention.latent_up_HKVC
            attention.key_absorb_HCK, attention.value_up_HVC = (nn.Parameter(one, requires_grad=False) for one in pair)
    network.is_fast = True
    return network
