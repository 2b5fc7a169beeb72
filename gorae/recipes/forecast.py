"""What reinforcement learning will find and take, foretold from a measurement of the model, and held against what came.

Nouns: a Pace, how fast this machine samples, reads and grades; a plan, figures by name; advice, sentences with numbers.
Knows no model but the one it takes the pace of.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean, quantiles
from time import monotonic
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from gorae.config import forward_flops, training_flops
from gorae.engine import Output
from gorae.evals import equal_groups
from gorae.observe import Meter, PriceTable, Spent, format_flops, format_seconds, format_usd
from gorae.posttrain import GrpoSettings
from gorae.recipes.run import ChatModel
from gorae.train import pad_batch, policy_outputs

READ_TOKENS = 1024  # that the pace of reading is taken with
MUCH_DEAD, MUCH_CLIPPED, MUCH_SETTLED = 0.3, 0.1, 0.5  # shares, from which advice is given
TOLD = {"counted": "", "fitted": " (by a beta distribution of difficulty)", "at most": " (at most)"}


@dataclass(frozen=True)
class Pace:
    """Sampling in seconds, tokens, FLOPs and cores at work; reading in FLOPs a second; grading in seconds a reply.

    `training_flops` and `reading_flops` are those of a token in rows of `row_length`, the longest prompt and reply.
    """

    sampling_seconds: float
    sampled_tokens: int
    sampling_flops: float
    cores: float
    reading_flops_per_second: float
    grading_seconds: float
    row_length: int
    training_flops: float
    reading_flops: float


def take_pace(
    model: ChatModel, outputs: Sequence[Output], meter: Meter, *, before: Spent, after: Spent, grading_seconds: float
) -> Pace:
    """The pace of what was sampled between two readings of the meter, and of a pass over some of it."""
    seconds = after.wall_seconds - before.wall_seconds
    row_length = max(len(one.prompt_token_ids) + len(one.token_ids) for one in outputs)
    config, context = replace(model.config, num_mtp_modules=0), row_length / 2  # which tuning leaves alone
    return Pace(
        sampling_seconds=seconds,
        sampled_tokens=sum(len(one.logprobs) for one in outputs),
        sampling_flops=after.flops - before.flops,
        cores=(after.core_seconds - before.core_seconds) / seconds,
        reading_flops_per_second=reading_pace(model, outputs, meter),
        grading_seconds=grading_seconds / len(outputs),
        row_length=row_length,
        training_flops=training_flops(config, 1, context=context),
        reading_flops=forward_flops(config, 1, context=context),
    )


@torch.no_grad()
def reading_pace(model: ChatModel, outputs: Sequence[Output], meter: Meter) -> float:
    """FLOPs a second of a forward pass as learning makes it."""
    rows = [(one.prompt_token_ids, one.token_ids) for one in outputs]
    ends = accumulate(len(prompt) + len(reply) for prompt, reply in rows)
    few = [row for row, end in zip(rows, ends, strict=True) if end <= READ_TOKENS] or rows[:1]
    weighed = [([*prompt, *reply], [0.0] * len(prompt) + [1.0] * len(reply)) for prompt, reply in few]
    batch = pad_batch([(ids[-READ_TOKENS:], weights[-READ_TOKENS:]) for ids, weights in weighed], 0)
    batch = batch.to(model.network.device)
    flops = forward_flops(model.config, batch.num_tokens, context=batch.token_ids_BT.shape[1] / 2)
    policy_outputs(model.network, batch)  # the first pass finds memory cold
    began = monotonic()
    policy_outputs(model.network, batch)
    seconds = monotonic() - began
    meter.add(flops=2 * flops, tokens=2 * batch.num_tokens)
    return flops / seconds


def plan(before: Mapping[str, Any], wanted: GrpoSettings, spent: Spent, prices: PriceTable) -> dict[str, float]:
    """What a run will take, by name, from a summary of the measurement before it and what that `spent`.

    Learning is taken to compute as fast as the pass that was timed; a price is core-hours, as on the bill, of measuring
    twice and of all steps.
    """
    pace, dead = Pace(**before["pace"]), equal_groups(before["rewards"], wanted.num_samples)[0]
    rounds = [dead**number for number in range(wanted.num_refills + 1)]
    sampled = wanted.num_prompts * sum(rounds) * wanted.num_samples  # replies of a batch
    live = wanted.num_prompts * (1 - dead ** (wanted.num_refills + 1)) * wanted.num_samples
    tokens = sampled * fmean(min(length, wanted.max_tokens) for length in before["lengths"])
    trained = sampled if wanted.beta else live
    compared = min(trained, (wanted.kl_rows or trained) * wanted.num_updates)
    learning = pace.row_length * (trained * pace.training_flops + compared * pace.reading_flops)
    sampling = tokens / pace.sampled_tokens
    seconds = (
        sampling * pace.sampling_seconds + sampled * pace.grading_seconds + learning / pace.reading_flops_per_second
    ) / wanted.num_updates
    flops = (sampling * pace.sampling_flops + learning) / wanted.num_updates
    core_seconds = 2 * spent.core_seconds + wanted.steps * seconds * pace.cores
    return {
        "seconds a step": seconds,
        "FLOPs": 2 * spent.flops + wanted.steps * flops,
        "price": core_seconds / 3600 * prices["vcpu"].usd_per_hour,
        "groups that teach nothing": dead,
        "replies cut off": cut_off(before, wanted.max_tokens),
    }


def compare(planned: Mapping[str, float], actual: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """Each figure as planned, as it was, and their ratio, which nothing has to nothing."""
    return {
        name: {
            "planned": value,
            "actual": actual[name],
            "ratio": actual[name] / value if value else None,
        }
        for name, value in planned.items()
    }


def cut_off(before: Mapping[str, Any], max_tokens: int) -> float:
    """The share of replies that a limit would cut off: at most, where it is beyond the one they were measured with."""
    ended = sum(length <= max_tokens for length in before["ended_lengths"])
    return 1 - ended / len(before["lengths"])


def advise(before: Mapping[str, Any], wanted: GrpoSettings) -> Iterator[str]:
    """What to change before it is paid for, in sentences."""
    yield from advise_on_samples(before["rewards"], wanted.num_samples)
    yield from advise_on_length(before, wanted.max_tokens)
    yield from advise_on_difficulty(before)


def advise_on_samples(rewards: Sequence[Sequence[float]], num_samples: int) -> Iterator[str]:
    dead, how = equal_groups(rewards, num_samples)
    if dead >= MUCH_DEAD:
        more, how_more = equal_groups(rewards, 2 * num_samples)
        yield (
            f"with rl.num_samples {2 * num_samples} instead of {num_samples}, {more:.0%}{TOLD[how_more]} instead of "
            f"{dead:.0%}{TOLD[how]} of groups would teach nothing"
        )
    elif num_samples >= 4:
        fewer = num_samples // 2
        dead_of_fewer, how_fewer = equal_groups(rewards, fewer)
        if dead_of_fewer <= dead + 0.05:
            yield (
                f"rl.num_samples {fewer} instead of {num_samples} would cost half, and {dead_of_fewer:.0%}"
                f"{TOLD[how_fewer]} instead of {dead:.0%} of groups would teach nothing"
            )


def advise_on_length(before: Mapping[str, Any], max_tokens: int) -> Iterator[str]:
    ended, share = before["ended_lengths"], cut_off(before, max_tokens)
    if not ended:
        yield f"no reply ended within {max(before['lengths'])} tokens; raise evaluate.max_tokens and rl.max_tokens"
        return
    longest = quantiles(ended, n=20, method="inclusive")[-1] if len(ended) > 1 else ended[0]
    known = f"95% of replies that ended had at most {longest:.0f} tokens"
    if share >= MUCH_CLIPPED:
        yield f"{known}; rl.max_tokens {max_tokens} cuts off {share:.0%}, which earn what a reply without an end earns"
    elif longest <= max_tokens / 2:
        yield f"{known}; rl.max_tokens {2 * round(longest)} instead of {max_tokens} would be enough"
    else:
        yield f"{known}; rl.max_tokens {max_tokens} is enough"


def advise_on_difficulty(before: Mapping[str, Any]) -> Iterator[str]:
    right = [row for row in before["right"] if row]
    always, never = (fmean(share(row) for row in right) for share in (all, lambda row: not any(row)))
    if always + never >= MUCH_SETTLED:
        wish = "harder" if always > never else "easier"
        yield (
            f"rows answered always: {always:.0%}, never: {never:.0%}; a reply to them has nothing to be compared with, "
            f"and {wish} rows would teach more"
        )


def plan_table(before: Mapping[str, Any], compared: Mapping[str, Mapping[str, float | None]]) -> Table:
    """The figures of a plan, with those that came, where they are known, beside them."""
    layout: dict[str, Any] = {"title_justify": "left", "box": SIMPLE_HEAD, "pad_edge": False}
    is_done = any(one["actual"] is not None for one in compared.values())
    names = ["", "planned", *(["actual", "ratio"] if is_done else [])]
    table = Table(*names, title="Planned and actual" if is_done else "Forecast", **layout)
    if not is_done:
        low, high = before["ci95"]
        table.add_row("pass@1", f"{before['pass_at_1']:.1%}, 95% {low:.1%} to {high:.1%}")
        table.add_row("reward", f"{before['reward']:.3f}, variance {before['reward_variance']:.3g} within a row")
    for name, one in compared.items():
        cells = [told(name, one[column]) for column in names[1:3]]
        table.add_row(name, *cells, *(["–" if one["ratio"] is None else f"{one['ratio']:.2f}"] if is_done else []))
    return table


def told(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name == "seconds a step":
        return f"{value:.3g} s" if value < 60 else format_seconds(value)
    return {"FLOPs": format_flops, "price": format_usd}.get(name, "{:.1%}".format)(value)


def as_plan(planned: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """A plan of which nothing has come yet."""
    return {name: {"planned": value, "actual": None, "ratio": None} for name, value in planned.items()}
