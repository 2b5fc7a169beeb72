"""Does the trainer differentiate what the engine sampled? Log-probabilities and routing decisions, side by side."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from gorae.engine import Engine, Event, SamplingParams, ServableModel
from gorae.kernels import Routing, whole_pages
from gorae.model import MixtureOfExperts, Network
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
    engine = NotingEngine(model, max_batch=len(prompts), cache_tokens=4 * rows, prefill_tokens=rows, prefix_cache=False)
    params = [SamplingParams(max_tokens=num_tokens, seed=seed + i, ignore_eos=True) for i in range(len(prompts))]
    with recorded_experts(model.network) as engine_experts:
        outputs = engine.generate(list(prompts), params)
    rows = [training_row(output.prompt_token_ids, output.token_ids) for output in outputs]
    batch = pad_batch(rows, pad_id=0)
    with recorded_experts(model.network) as trainer_experts, torch.no_grad():
        hidden_BTD = model.network(batch.token_ids_BT[:, :-1]).hidden_BTD
        chosen = batch.weights_BT[:, 1:] > 0
        log_probs_N = token_log_probs(model.network, hidden_BTD[chosen], batch.token_ids_BT[:, 1:][chosen])
    reported_N = torch.tensor([log_prob for output in outputs for log_prob in output.logprobs])
    disagreements, num_routings = 0, 0
    for passes, (trained_BTA,) in zip(engine_experts.values(), trainer_experts.values(), strict=True):
        for decided_TA, trained_TA in zip(by_prompt(passes, engine.rows, prompts), trained_BTA, strict=True):
            disagreements += int((decided_TA != trained_TA[: len(decided_TA)]).any(-1).sum())
            num_routings += len(decided_TA)
    return Parity(
        max_difference=(log_probs_N - reported_N).abs().max().item(),
        routing_disagreements=disagreements,
        num_tokens=len(reported_N),
        num_routings=num_routings,
    )


class NotingEngine(Engine):
    """Notes the requests of every step, in the order of rows: those decoded, then those whose prompts were read."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.rows: list[list[int]] = []

    def step(self) -> list[Event]:
        events = super().step()
        self.rows.append([event.request_id for event in events])
        return events


def by_prompt(passes: list[Tensor], rows: list[list[int]], prompts: Sequence[list[int]]) -> list[Tensor]:
    """The engine's decisions for each prompt and its reply but the last token, [T, A]; equal prompts were read once."""
    parts: dict[int, list[Tensor]] = {}
    upcoming = iter(passes)
    prompt_of = dict(enumerate(map(tuple, prompts), start=1))  # by the ids that the engine gave them
    for requests in rows:
        decoded, read = [r for r in requests if r in parts], [r for r in requests if r not in parts]
        if decoded:
            for request, decided_TA in zip(decoded, next(upcoming), strict=True):
                parts[request].append(decided_TA)
        if read:
            distinct = dict.fromkeys(prompt_of[request] for request in read)
            decided_of = dict(zip(distinct, next(upcoming), strict=True))
            parts |= {r: [decided_of[prompt_of[r]][: len(prompt_of[r])]] for r in read}
    return [torch.cat(parts[request]) for request in prompt_of]


@contextmanager
def recorded_experts(network: Network) -> Iterator[dict[str, list[Tensor]]]:
    """Every routed layer's chosen experts [B, T, A], one entry a forward pass, while the context is open."""
    chosen: dict[str, list[Tensor]] = {}

    def watch(name: str, layer: MixtureOfExperts) -> RemovableHandle:
        def note(_: object, inputs: tuple[Tensor], output: tuple[Tensor, Routing]) -> None:
            chosen[name].append(output[1].experts_NA.unflatten(0, inputs[0].shape[:2]))

        chosen[name] = []
        return layer.register_forward_hook(note)

    layers = [(name, layer) for name, layer in network.blocks.named_modules() if isinstance(layer, MixtureOfExperts)]
    handles = [watch(name, layer) for name, layer in layers]
    try:
        yield chosen
    finally:
        for handle in handles:
            handle.remove()
