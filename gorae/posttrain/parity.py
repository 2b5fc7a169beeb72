"""Does the trainer differentiate what the engine sampled? Log-probabilities and routing decisions, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gorae.engine import Engine, SamplingParams, ServableModel
from gorae.kernels import whole_pages
from gorae.posttrain.sft import training_row
from gorae.train import pad_batch, token_log_probs


@dataclass(frozen=True)
class Parity:
    """How far apart engine and trainer were over `num_tokens` sampled tokens and `num_routings` router decisions."""

    max_difference: float
    routing_disagreements: int
    num_tokens: int
    num_routings: int

    @property
    def is_exact(self) -> bool:
        return self.max_difference == 0 and self.routing_disagreements == 0


def measure_parity(model: ServableModel, prompts: Sequence[list[int]], *, num_tokens: int, seed: int = 0) -> Parity:
    """Sample `num_tokens` after each prompt with the engine, then put the same rows through the trainer's forward pass.

    Log-probabilities are compared at every sampled token, routing decisions also at the prompts' tokens. Raises
    ValueError for a prompt that leaves no room for `num_tokens`.
    """
    longest = max(map(len, prompts))
    if longest + num_tokens > model.config.max_positions:
        raise ValueError(
            f"a prompt of {longest} tokens and num_tokens={num_tokens} exceed the {model.config.max_positions} "
            "positions of the model; shorten one of them"
        )
    rows = whole_pages(longest + num_tokens) * len(prompts)
    engine = Engine(model, max_batch=len(prompts), cache_tokens=4 * rows, prefill_tokens=rows, prefix_cache=False)
    has_experts = not all(map(model.config.is_dense, range(model.config.num_layers)))
    params = [
        SamplingParams(max_tokens=num_tokens, seed=seed + i, ignore_eos=True, routings=has_experts)
        for i in range(len(prompts))
    ]
    outputs = engine.generate(list(prompts), params)
    batch = pad_batch([training_row(output.prompt_token_ids, output.token_ids) for output in outputs], pad_id=0)
    batch = batch.to(model.network.device)
    with torch.no_grad():
        features = model.network(batch.token_ids_BT[:, :-1])
        chosen = batch.weights_BT[:, 1:] > 0
        log_probs_N = token_log_probs(model.network, features.hidden_BTD[chosen], batch.token_ids_BT[:, 1:][chosen])
    reported_N = torch.tensor([log_prob for output in outputs for log_prob in output.logprobs])
    decided = [output.routings.experts_LTA for output in outputs if output.routings]
    trained = [routing.experts_NA.cpu().unflatten(0, features.hidden_BTD.shape[:2]) for routing in features.routings]
    disagreements = sum(
        int((decided_TA != trained_BTA[place, : len(decided_TA)]).any(-1).sum())
        for place, decided_LTA in enumerate(decided)
        for decided_TA, trained_BTA in zip(decided_LTA, trained, strict=True)
    )
    return Parity(
        max_difference=(log_probs_N.cpu() - reported_N).abs().max().item(),
        routing_disagreements=disagreements,
        num_tokens=len(reported_N),
        num_routings=sum(decided_LTA.shape[:2].numel() for decided_LTA in decided),
    )
