"""Every policy loss and its gradient against its paper's formula in plain Python, off policy, and where two agree."""

import math
from collections.abc import Sequence
from statistics import fmean, pstdev

import pytest
import torch

from gorae.posttrain import ALGORITHMS, GrpoSettings, Rollout, grpo, policy_batch, policy_loss
from gorae.train.loss import PolicyOutputs

MAX_TOKENS = 7
# Two groups of three replies: lengths 1 to 4, the second longest first; the third group earned the same throughout.
LENGTHS = [2, 1, 4, 3, 3, 1, 2, 2, 5]
REWARDS = [1.0, 0.0, 0.25, 0.0, 2.0, 2.0, 0.5, 0.5, 0.5]


def made(
    lengths: Sequence[int] = LENGTHS, rewards: Sequence[float | None] = REWARDS, num_samples: int = 3
) -> list[Rollout]:
    """Rollouts of these lengths and rewards, with log-probabilities drawn anew for every token."""
    generator = torch.Generator().manual_seed(len(lengths))
    return [
        Rollout(
            [3, 4],
            [5] * length,
            (-3 * torch.rand(length, generator=generator)).tolist(),
            reward,
            prompt=number // num_samples,
            finish_reason="stop",
        )
        for number, (length, reward) in enumerate(zip(lengths, rewards, strict=True))
    ]


def moved(rollouts: Sequence[Rollout], *, by: float) -> list[list[float]]:
    """Log-probabilities of a policy that has left the one that sampled, by up to `by` nats a token either way."""
    generator = torch.Generator().manual_seed(1)
    return [
        [log_prob + by * (2 * torch.rand(1, generator=generator).item() - 1) for log_prob in one.log_probs]
        for one in rollouts
    ]


@pytest.fixture
def loss_of(monkeypatch):
    """What policy_loss makes of rollouts, where the policy now has `log_probs`: (value, gradients, figures).

    Gradients come reply by reply, and are 0 for a reply whose row was left out. The reference, if there is one, is
    given by its log-probabilities too.
    """

    def loss_of(
        rollouts: Sequence[Rollout], log_probs: Sequence[Sequence[float]], settings: GrpoSettings, reference=None
    ):
        batch = policy_batch(rollouts, settings, pad_id=2)
        flat = [torch.tensor(one, dtype=torch.float64, requires_grad=True) for one in log_probs]
        kept = kept_places(rollouts, batch)
        now_N = torch.cat([flat[place] for place in kept])
        then = [] if reference is None else [log_prob for place in kept for log_prob in reference[place]]
        known = {"policy": now_N, "reference": torch.tensor(then, dtype=torch.float64)}
        monkeypatch.setattr(
            grpo, "policy_outputs", lambda network, batch, **options: PolicyOutputs(known[network], 0.5)
        )
        loss = policy_loss("policy", batch, settings=settings, reference=reference and "reference")
        gradients = torch.autograd.grad(loss.total, flat, allow_unused=True)
        return (
            loss.total.item(),
            [[0.0] * len(one) if found is None else found.tolist() for one, found in zip(flat, gradients, strict=True)],
            loss.figures,
        )

    return loss_of


def kept_places(rollouts: Sequence[Rollout], batch) -> list[int]:
    """Which replies the batch has rows of, told by their log-probabilities at sampling."""
    rest, places = batch.sampled_log_probs_N, []
    for place, one in enumerate(rollouts):
        if rest[: len(one.log_probs)].tolist() == torch.tensor(one.log_probs).tolist():
            places.append(place)
            rest = rest[len(one.log_probs) :]
    assert not len(rest)
    return places


def advantages_of(rewards: Sequence[float], *, scaled: bool) -> list[float]:
    """Formula of arXiv 2402.03300, section 4.1.2, for one group; a group of equal rewards has none."""
    centred = [one - fmean(rewards) for one in rewards]
    return [one / (pstdev(rewards) or 1.0) for one in centred] if scaled else centred


def clip(ratio: float, low: float, high: float) -> float:
    return min(max(ratio, 1 - low), 1 + high)


def by_the_paper(name: str, rollouts: Sequence[Rollout], now: Sequence[Sequence[float]], held=None) -> float:
    """The objective as its paper writes it, negated, averaged over prompts by what the paper's own sum would count.

    held: log-probabilities behind a stopped gradient, CISPO's ratios; those of now unless they are given.
    """
    groups = [list(range(first, first + 3)) for first in range(0, len(rollouts), 3)]
    total, tokens, replies = 0.0, sum(len(one) for one in now), len(rollouts)
    for group in groups:
        advantages = advantages_of([rollouts[place].reward for place in group], scaled=name != "dr_grpo")
        for place, advantage in zip(group, advantages, strict=True):
            new, old = now[place], rollouts[place].log_probs
            ratios = [math.exp(a - b) for a, b in zip(new, old, strict=True)]
            if name == "grpo":
                gains = [min(ratio * advantage, clip(ratio, 0.2, 0.2) * advantage) for ratio in ratios]
                total += sum(gains) / len(gains) / replies
            elif name == "dapo":
                total += sum(min(ratio * advantage, clip(ratio, 0.2, 0.28) * advantage) for ratio in ratios) / tokens
            elif name == "dr_grpo":
                gains = [min(ratio * advantage, clip(ratio, 0.2, 0.2) * advantage) for ratio in ratios]
                total += sum(gains) / MAX_TOKENS / replies
            elif name == "gspo":
                ratio = math.prod(ratios) ** (1 / len(ratios))
                total += min(ratio * advantage, clip(ratio, 3e-4, 4e-4) * advantage) / replies
            else:
                weights = [min(math.exp(a - b), 5.0) for a, b in zip((held or now)[place], old, strict=True)]
                total += sum(w * advantage * one for w, one in zip(weights, new, strict=True)) / tokens
    return -total


def slopes(name: str, rollouts: Sequence[Rollout], now: Sequence[Sequence[float]]) -> list[list[float]]:
    """Central differences of the paper's formula at every token."""
    step, found = 1e-6, []
    for place, one in enumerate(now):
        found.append([])
        for token in range(len(one)):
            values = []
            for sign in (1, -1):
                changed = [list(each) for each in now]
                changed[place][token] += sign * step
                values.append(by_the_paper(name, rollouts, changed, held=now))
            found[-1].append((values[0] - values[1]) / (2 * step))
    return found


@pytest.mark.parametrize("by", [0.0, 1e-3, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_value_and_gradient_are_those_of_the_paper(loss_of, name, by):
    """On policy, a little off it, far off it. Advantages and weights are float32, the rest float64."""
    rollouts = made()
    now = moved(rollouts, by=by)
    value, gradients, figures = loss_of(
        rollouts, now, GrpoSettings(num_samples=3, max_tokens=MAX_TOKENS, algorithm=name)
    )
    assert value == pytest.approx(by_the_paper(name, rollouts, now), rel=1e-5, abs=1e-7)
    for found, expected in zip(gradients, slopes(name, rollouts, now), strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)
    if by == 0:
        assert figures["clip_ratio"] == 0
    if by == 1 and name != "cispo":
        assert figures["clip_ratio"] > 0
    if by == 3:
        assert figures["clip_ratio"] > 0


@pytest.mark.parametrize(
    ("name", "low", "high"), [("grpo", 0.8, 1.2), ("dapo", 0.8, 1.28), ("dr_grpo", 0.8, 1.2), ("gspo", 0.9997, 1.0004)]
)
@pytest.mark.parametrize("is_good", [True, False])
def test_a_gain_ends_at_the_edge_in_the_direction_of_the_advantage_and_nowhere_else(loss_of, name, low, high, is_good):
    """A pair of replies of one token, of advantages 1 and -1 (0.5 and -0.5 unscaled); only the first has moved."""
    settings = GrpoSettings(num_samples=2, max_tokens=1, algorithm=name)
    advantage = (1 if is_good else -1) * (0.5 if name == "dr_grpo" else 1.0)
    rollouts = made([1, 1], [1.0, 0.0] if is_good else [0.0, 1.0], num_samples=2)
    for ratio in (low - 1e-5, low + 1e-5, 1.0, high - 1e-5, high + 1e-5):
        now = [[rollouts[0].log_probs[0] + math.log(ratio)], rollouts[1].log_probs]
        value, gradients, figures = loss_of(rollouts, now, settings)
        is_held = ratio > high if is_good else ratio < low
        edge = high if is_good else low
        assert value == pytest.approx(-((edge if is_held else ratio) * advantage - advantage) / 2, abs=1e-6)
        assert gradients[0] == pytest.approx([0.0 if is_held else -ratio * advantage / 2], rel=1e-5)
        assert gradients[1] == pytest.approx([advantage / 2], rel=1e-5)
        assert figures["clip_ratio"] == (0.0 if low <= ratio <= high else 0.5)


@pytest.mark.parametrize(("ratio", "weight"), [(0.01, 0.01), (1.0, 1.0), (4.99, 4.99), (5.5, 5.0), (40.0, 5.0)])
def test_cispo_weighs_every_token_by_its_bounded_ratio_and_loses_none(loss_of, ratio, weight):
    rollouts = made([1, 1], [1.0, 0.0], num_samples=2)
    now = [[one.log_probs[0] + math.log(ratio)] for one in rollouts]
    value, gradients, _ = loss_of(rollouts, now, GrpoSettings(num_samples=2, algorithm="cispo"))
    assert gradients == [pytest.approx([-weight / 2]), pytest.approx([weight / 2])]
    assert value == pytest.approx(-weight * (now[0][0] - now[1][0]) / 2)


def test_gspo_clips_whole_replies_and_their_tokens_share_the_gradient(loss_of):
    """Ratios e^0.3 and e^-0.2999 balance to 1.00005, inside the range, however far each token has gone."""
    rollouts = made([2, 1], [1.0, 0.0], num_samples=2)
    first, second = rollouts[0].log_probs
    now = [[first + 0.3, second - 0.2999], rollouts[1].log_probs]
    _, gradients, figures = loss_of(rollouts, now, GrpoSettings(num_samples=2, algorithm="gspo"))
    assert gradients[0] == pytest.approx([-math.exp(0.00005) / 2 / 2] * 2, rel=1e-6)
    assert figures["clip_ratio"] == 0
    now = [[first + 0.3, second - 0.299], rollouts[1].log_probs]
    _, gradients, figures = loss_of(rollouts, now, GrpoSettings(num_samples=2, algorithm="gspo"))
    assert gradients[0] == [0.0, 0.0]
    assert figures["clip_ratio"] == pytest.approx(2 / 3), "of tokens: both of the first reply, not the second's"


def equal(first, second, *, rel: float | None = None) -> bool:
    """The same value and the same gradients; to the last bit unless `rel` is given."""
    if rel is None:
        return first[:2] == second[:2]
    same = [one == pytest.approx(other, rel=rel) for one, other in zip(first[1], second[1], strict=True)]
    return first[0] == pytest.approx(second[0], rel=rel) and all(same)


@pytest.mark.parametrize("by", [0.0, 0.3, 2.0])
def test_gspo_is_grpo_where_every_reply_is_one_token(loss_of, by):
    rollouts = made([1] * 9)
    now = moved(rollouts, by=by)
    clipping = {"num_samples": 3, "epsilon": 0.2, "epsilon_high": 0.2}
    gspo, published = (loss_of(rollouts, now, GrpoSettings(algorithm=name, **clipping)) for name in ("gspo", "grpo"))
    assert equal(gspo, published)
    longer = made()
    now = moved(longer, by=1.0)
    gspo, published = (loss_of(longer, now, GrpoSettings(algorithm=name, **clipping)) for name in ("gspo", "grpo"))
    assert not equal(gspo, published, rel=1e-3)


@pytest.mark.parametrize("by", [0.0, 0.3, 2.0])
def test_dr_grpo_is_unscaled_grpo_where_every_reply_is_as_long_as_may_be(loss_of, by):
    rollouts = made([MAX_TOKENS] * 9)
    now = moved(rollouts, by=by)
    wanted = {"num_samples": 3, "max_tokens": MAX_TOKENS}
    done_right = loss_of(rollouts, now, GrpoSettings(algorithm="dr_grpo", **wanted))
    unscaled = loss_of(rollouts, now, GrpoSettings(algorithm="grpo", scale_rewards="none", **wanted))
    assert equal(done_right, unscaled, rel=1e-6)
    scaled = loss_of(rollouts, now, GrpoSettings(algorithm="grpo", **wanted))
    assert not equal(done_right, scaled, rel=1e-3)


@pytest.mark.parametrize("by", [0.0, 0.3, 2.0])
def test_dapo_is_grpo_with_its_clipping_where_all_replies_are_of_one_length(loss_of, by):
    rollouts = made([4] * 9)
    now = moved(rollouts, by=by)
    dapo = loss_of(rollouts, now, GrpoSettings(num_samples=3))
    wider = loss_of(rollouts, now, GrpoSettings(num_samples=3, algorithm="grpo", epsilon_high=0.28))
    assert equal(dapo, wider, rel=1e-6)


def test_on_policy_all_algorithms_but_cispos_value_say_the_same_of_replies_of_equal_length(loss_of):
    rollouts = made([MAX_TOKENS] * 9)
    now = [one.log_probs for one in rollouts]
    results = [
        loss_of(
            rollouts,
            now,
            GrpoSettings(num_samples=3, max_tokens=MAX_TOKENS, algorithm=name, scale_rewards="group"),
        )
        for name in ALGORITHMS
    ]
    for _, gradients, _ in results[1:]:
        for found, expected in zip(gradients, results[0][1], strict=True):
            assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize(
    ("name", "counted", "live"), [("grpo", 9, 6), ("gspo", 9, 6), ("dapo", 23, 14), ("dr_grpo", 63, 42)]
)
def test_dead_groups_are_in_the_divisor_unless_they_are_excluded(loss_of, name, counted, live, exclude):
    rollouts = made()
    settings = GrpoSettings(num_samples=3, max_tokens=MAX_TOKENS, algorithm=name, exclude_dead_groups=exclude)
    batch = policy_batch(rollouts, settings, pad_id=2)
    assert batch.divisor == (live if exclude else counted)
    assert batch.figures["frac_reward_zero_std"] == pytest.approx(1 / 3), "counted, either way"
    alone = policy_batch(rollouts[:6], settings, pad_id=2)
    assert alone.divisor == live
    assert torch.equal(alone.advantages_N, batch.advantages_N)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_replies_without_a_grade_are_as_if_they_had_never_been_sampled(loss_of, name, exclude):
    rollouts = made()
    settings = GrpoSettings(num_samples=3, max_tokens=MAX_TOKENS, algorithm=name, exclude_dead_groups=exclude)
    now = moved(rollouts, by=0.5)
    value, gradients, figures = loss_of(rollouts, now, settings)
    ungraded = made([6, 5], [None, None])
    holed = [item for first in (0, 3, 6) for item in (ungraded[0], *rollouts[first : first + 3], ungraded[1])]
    holed_now = [one.log_probs if one in ungraded else now[rollouts.index(one)] for one in holed]
    wider = GrpoSettings(num_samples=5, max_tokens=MAX_TOKENS, algorithm=name, exclude_dead_groups=exclude)
    again = loss_of(holed, holed_now, wider)
    assert again[0] == value
    assert [found for one, found in zip(holed, again[1], strict=True) if one not in ungraded] == gradients
    for key in ("reward", "reward_std", "frac_reward_zero_std", "clip_ratio"):
        assert again[2][key] == pytest.approx(figures[key])
    assert (figures["completions/ungraded_ratio"], again[2]["completions/ungraded_ratio"]) == (0, pytest.approx(0.4))


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_step_without_any_grade_moves_nothing_and_says_that_it_knows_no_reward(loss_of, name, exclude):
    rollouts = made([2, 3], [None, None], num_samples=2)
    settings = GrpoSettings(num_samples=2, algorithm=name, exclude_dead_groups=exclude)
    value, gradients, figures = loss_of(rollouts, moved(rollouts, by=0.5), settings)
    assert value == 0
    assert gradients == [[0, 0], [0, 0, 0]]
    assert math.isnan(figures["reward"])
    assert (figures["frac_reward_zero_std"], figures["completions/ungraded_ratio"]) == (1, 1)


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_refused_before_it_reaches_the_weights(reward):
    with pytest.raises(ValueError, match=f"a reply to prompt 0 has the reward {reward}; a reward must be a finite"):
        policy_batch(made([2, 2], [1.0, reward], num_samples=2), GrpoSettings(num_samples=2), pad_id=2)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"algorithm": "ppo"}, "algorithm=ppo is none of grpo, dapo, dr_grpo, gspo, cispo"),
        ({"scale_rewards": "true"}, "scale_rewards=true is none of group, batch, none"),
        ({"epsilon": -0.1}, "epsilon=-0.1 must not be negative: ratios are clipped around 1"),
        ({"epsilon_high": -1.0}, "epsilon_high=-1.0 must not be negative: ratios are clipped around 1"),
    ],
)
def test_what_no_algorithm_has_is_refused_before_anything_is_run(setting, complaint):
    with pytest.raises(ValueError, match=complaint):
        GrpoSettings(**setting)


def test_an_algorithm_is_as_published_but_for_what_is_set_beside_it():
    assert GrpoSettings().rule == ALGORITHMS["dapo"]
    rule = GrpoSettings(algorithm="gspo", epsilon_high=0.1, scale_rewards="batch").rule
    assert (rule.epsilon, rule.epsilon_high, rule.scale_rewards) == (3e-4, 0.1, "batch")
    assert rule.ratio_of_sequence
    assert GrpoSettings(algorithm="gspo", epsilon=0.0).rule.epsilon == 0.0, "0 is a choice, not its absence"


def weight_of(name: str, length: int) -> float:
    """What a token of a reply counts in the average over made(): 9 replies, 23 tokens."""
    by_length = {"grpo": 1 / length / 9, "gspo": 1 / length / 9, "dr_grpo": 1 / MAX_TOKENS / 9}
    return by_length.get(name, 1 / 23)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_beta_adds_the_distance_from_the_reference_to_the_loss_of_every_reply_dead_groups_too(loss_of, name):
    """e^d - d - 1 with d = log p_reference - log p, whose slope in log p is 1 - e^d (arXiv 2402.03300, eq. 4)."""
    rollouts = made()
    now, then = moved(rollouts, by=0.5), moved(rollouts[::-1], by=0.7)[::-1]
    settings = GrpoSettings(num_samples=3, max_tokens=MAX_TOKENS, algorithm=name, beta=0.04)
    value, gradients, figures = loss_of(rollouts, now, settings, reference=then)
    expected, distances = by_the_paper(name, rollouts, now), []
    for new, old, found, free in zip(now, then, gradients, slopes(name, rollouts, now), strict=True):
        weight = weight_of(name, len(new))
        distances += [math.exp(b - a) - (b - a) - 1 for a, b in zip(new, old, strict=True)]
        expected += 0.04 * weight * sum(distances[-len(new) :])
        pulls = [0.04 * weight * (1 - math.exp(b - a)) for a, b in zip(new, old, strict=True)]
        assert found == pytest.approx([a + b for a, b in zip(free, pulls, strict=True)], rel=1e-4, abs=1e-7)
    assert value == pytest.approx(expected, rel=1e-5)
    assert figures["kl"] == pytest.approx(fmean(distances))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_distance_leaves_out_dead_groups_and_ungraded_replies_where_they_do_not_count(loss_of, name):
    rollouts = made(rewards=[1.0, None, 0.25, 0.0, 2.0, 2.0, 0.5, 0.5, 0.5])
    now, then = moved(rollouts, by=0.5), [one.log_probs for one in rollouts]
    settings = GrpoSettings(num_samples=3, algorithm=name, beta=0.04, exclude_dead_groups=True)
    _, gradients, _ = loss_of(rollouts, now, settings, reference=then)
    assert [any(one) for one in gradients] == [True, False, True, True, True, True, False, False, False]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_distance_moves_nothing_where_nothing_counts(loss_of, name):
    rollouts = made([2, 3], [None, None], num_samples=2)
    settings = GrpoSettings(num_samples=2, algorithm=name, beta=1.0)
    value, gradients, _ = loss_of(rollouts, moved(rollouts, by=1.0), settings, [one.log_probs for one in rollouts])
    assert value == 0
    assert gradients == [[0, 0], [0, 0, 0]]


def test_a_distance_without_a_reference_is_refused(loss_of):
    rollouts = made()
    with pytest.raises(
        ValueError, match=r"beta=0.04 weighs the distance from a reference, and there is none; give one"
    ):
        loss_of(rollouts, moved(rollouts, by=0.5), GrpoSettings(num_samples=3, beta=0.04))
