"""The policy loss by hand, its clipping, and the figures that say how on-policy it was."""

import math
from dataclasses import replace

import pytest
import torch

from gorae.checkpoint import Model
from gorae.engine import Engine, SamplingParams
from gorae.model import Network
from gorae.posttrain import (
    GrpoSettings,
    PolicyBatch,
    Rollout,
    grpo,
    mini_batch,
    policy_batch,
    policy_loss,
    sample_rollouts,
)
from gorae.train import Batch, HybridOptimizer, OptimizerSettings, policy_outputs, token_log_probs, update
from gorae.train.loss import PolicyOutputs

PARAMS = SamplingParams(max_tokens=9, ignore_eos=True)
SETTINGS = GrpoSettings(num_prompts=3, num_samples=4)


def rollout(reward: float, *, reply=(5, 6), log_probs=(-1.0, -2.0), reason="stop") -> Rollout:
    return Rollout([3, 4], list(reply), list(log_probs), reward, prompt=0, finish_reason=reason)


@pytest.fixture
def loss_of(monkeypatch):
    """The loss as a function of the trainer's log-probabilities alone, in float64: (value, figures, gradient)."""

    def loss_of(
        log_probs: list[float],
        sampled: list[float],
        advantages: list[float],
        divisor: int,
        settings: GrpoSettings = SETTINGS,
        first: list[float] | None = None,
    ):
        log_probs_N = torch.tensor(log_probs, dtype=torch.float64, requires_grad=True)
        monkeypatch.setattr(grpo, "policy_outputs", lambda network, batch, **options: PolicyOutputs(log_probs_N, 0.5))
        batch = PolicyBatch(
            torch.zeros(1, 1 + len(log_probs), dtype=torch.long),
            torch.tensor([[0.0] + [1.0] * len(log_probs)]),
            advantages_N=torch.tensor(advantages, dtype=torch.float64),
            sampled_log_probs_N=torch.tensor(sampled, dtype=torch.float64),
            divisor=divisor,
            figures={},
            is_fresh=first is None,
            first_log_probs_N=None if first is None else torch.tensor(first, dtype=torch.float64),
        )
        loss = policy_loss(None, batch, settings=settings)
        (gradient,) = torch.autograd.grad(loss.total, log_probs_N)
        return loss.total.item(), loss.figures, gradient.tolist()

    return loss_of


def test_at_ratio_1_the_gradient_is_reinforce_with_advantages(loss_of):
    log_probs, advantages = [-0.5, -2.0, -0.1, -3.0], [1.5, -0.5, 0.25, -2.0]
    value, figures, gradient = loss_of(log_probs, log_probs, advantages, 10)
    assert value == pytest.approx(-sum(advantages) / 10, abs=1e-15)
    assert gradient == pytest.approx([-advantage / 10 for advantage in advantages], abs=1e-15)
    assert figures["clip_ratio"] == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "is_held_back"),
    [
        (1.27, 1.0, False),
        (1.29, 1.0, True),  # already likelier than 1 + epsilon_high: no more push
        (0.81, 1.0, False),
        (0.79, 1.0, False),  # a good token that became unlikely is still pushed
        (1.27, -1.0, False),
        (1.29, -1.0, False),  # a bad token that became likely is still pulled
        (0.81, -1.0, False),
        (0.79, -1.0, True),
    ],
)
def test_a_token_is_held_back_only_where_it_has_left_the_interval_in_the_direction_of_its_advantage(
    loss_of, ratio, advantage, is_held_back
):
    value, figures, gradient = loss_of([-1.0 + math.log(ratio)], [-1.0], [advantage], 1)
    edge = min(max(ratio, 0.8), 1.28)
    expected = -edge * advantage if is_held_back else -ratio * advantage
    assert value == pytest.approx(expected, abs=1e-12)
    assert gradient == pytest.approx([0.0 if is_held_back else -ratio * advantage], abs=1e-12)
    assert figures["clip_ratio"] == (ratio != edge)


def test_mismatch_is_the_low_variance_estimate_of_the_divergence(loss_of):
    _, figures, _ = loss_of([-1.0, -1.0], [-1.5, -0.75], [1.0, 1.0], 2)
    expected = (math.exp(0.5) - 0.5 - 1 + math.exp(-0.25) + 0.25 - 1) / 2
    assert figures["mismatch_kl"] == pytest.approx(expected, abs=1e-12)


# Tokens whose trainer's probability is first 1.5, 0.4, 1.2 and 0.9 times the sampler's; one reply, of ratio 0.648.
RATIOS = [1.5, 0.4, 1.2, 0.9]
CORRECTED = {
    "tis_tokens": [1.5, 0.4, 1.2, 0.9],
    "mis_tokens": [1.5, 0.0, 1.2, 0.9],
    "tis_sequences": [0.648] * 4,
    "mis_sequences": [0.648] * 4,
}


@pytest.mark.parametrize("correction", CORRECTED)
@pytest.mark.parametrize("moved", [0.0, 0.1])
def test_a_correction_weighs_gains_and_leaves_the_ratio_to_the_trainers_own_probabilities(loss_of, correction, moved):
    """Fresh, and after an update that made every token likelier by a tenth of a nat: decoupled from the sampler's."""
    advantages, sampled = [1.0, -1.0, 0.5, 2.0], [-1.0, -0.7, -2.0, -0.3]
    first = [one + math.log(ratio) for one, ratio in zip(sampled, RATIOS, strict=True)]
    settings = GrpoSettings(correction=correction, rollouts="int4")
    now = [one + moved for one in first]
    value, figures, gradient = loss_of(now, sampled, advantages, 4, settings, first if moved else None)
    gains = [
        weight * math.exp(moved) * advantage
        for weight, advantage in zip(CORRECTED[correction], advantages, strict=True)
    ]
    assert value == pytest.approx(-sum(gains) / 4, abs=1e-12)
    assert gradient == pytest.approx([-gain / 4 for gain in gains], abs=1e-12)
    assert figures["correction"] == pytest.approx(sum(CORRECTED[correction]) / 4)
    assert figures["ratio_max"] == pytest.approx(0.6)
    assert figures["clip_ratio"] == 0
    if moved:
        apart = [ratio * math.exp(0.1) for ratio in RATIOS]
        assert figures["update_kl"] == pytest.approx(sum(one - math.log(one) - 1 for one in apart) / 4)
        assert "sampler_kl" not in figures
    else:
        assert figures["sampler_kl"] == pytest.approx(sum(ratio - math.log(ratio) - 1 for ratio in RATIOS) / 4)
        assert "update_kl" not in figures


def test_whole_replies_are_cut_or_left_out_by_their_product(loss_of):
    sampled = [-1.0, -1.0]
    for ratio, kept in ((2.5, 0.0), (0.3, 0.0), (1.9, 1.9)):
        first = [-1.0 + math.log(ratio) / 2] * 2
        for correction, weight in (("mis_sequences", kept), ("tis_sequences", min(ratio, 2.0))):
            settings = GrpoSettings(correction=correction)
            _, figures, gradient = loss_of(first, sampled, [1.0, 1.0], 1, settings)
            assert gradient == pytest.approx([-weight] * 2)
            assert figures["correction"] == pytest.approx(weight)


def test_without_a_correction_the_ratio_is_over_the_samplers_probabilities(loss_of):
    _, figures, gradient = loss_of([-1.0 + math.log(1.2)], [-1.0], [1.0], 1, GrpoSettings(rollouts="int8"))
    assert gradient == pytest.approx([-1.2])
    assert "correction" not in figures


def test_soft_tokens_take_from_the_reward_of_replies_near_the_limit():
    """Of 10 tokens the last 4 cost a quarter each: rewards 1, 1, 0.5 and 0, and one that was not graded."""
    settings = GrpoSettings(num_samples=5, max_tokens=10, soft_tokens=4)
    lengths, rewards = [2, 6, 8, 10, 9], [1.0, 1.0, 1.0, 1.0, None]
    rollouts = [
        rollout(reward, reply=[5] * length, log_probs=[-1.0] * length)
        for length, reward in zip(lengths, rewards, strict=True)
    ]
    batch = policy_batch(rollouts, settings, pad_id=2)
    assert batch.figures["reward"] == pytest.approx(0.625)
    mean, deviation = 0.625, (2 * 0.375**2 + 0.125**2 + 0.625**2) ** 0.5 / 2
    expected = [(reward - mean) / deviation for reward in (1.0, 1.0, 0.5, 0.0)]
    firsts = [batch.advantages_N[start].item() for start in (0, 2, 8, 16)]
    assert firsts == pytest.approx(expected)
    plain = policy_batch(rollouts, replace(settings, soft_tokens=0), pad_id=2)
    assert plain.figures["frac_reward_zero_std"] == 1.0


def test_replay_makes_the_routers_of_another_network_agree_and_needs_ways(model, config, roll):
    """Only the routers differ, so replay gives the sampler's own log-probabilities back too."""
    rollouts = roll(replace(PARAMS, routings=True))
    with torch.no_grad():
        for layer in (1, 2):
            model.network.blocks[layer].feed_forward.router_ED.add_(
                0.2 * torch.randn(8, 24, generator=torch.Generator().manual_seed(layer))
            )
    batch = policy_batch(rollouts, SETTINGS, pad_id=2)
    own, replayed = (
        policy_loss(model.network, batch, settings=replace(SETTINGS, rollouts="int8", replay=replay)).figures
        for replay in (False, True)
    )
    assert own["routing_flips"] > 0.1
    assert own["ratio_max"] > 0.01
    assert replayed["routing_flips"] == 0.0
    assert replayed["ratio_max"] == 0.0
    with pytest.raises(ValueError, match="replay=True needs the experts of the rollouts"):
        policy_loss(model.network, replace(batch, ways=()), settings=replace(SETTINGS, replay=True))


def test_the_gradient_on_the_weights_is_reinforce(model, roll):
    """The same gradient from -Σ A log p / tokens, one row at a time."""
    rollouts = roll(PARAMS)
    batch = policy_batch(rollouts, SETTINGS, pad_id=2)
    policy_loss(model.network, batch, settings=SETTINGS).total.backward()
    found = {name: parameter.grad for name, parameter in model.network.named_parameters()}
    model.network.zero_grad()
    rewards = torch.tensor([one.reward for one in rollouts]).view(3, 4)
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True, correction=0)).flatten()
    for one, advantage in zip(rollouts, advantages.tolist(), strict=True):
        ids_T = torch.tensor(one.prompt_ids + one.reply_ids)
        hidden_TD = model.network(ids_T[None, :-1]).hidden_BTD[0, len(one.prompt_ids) - 1 :]
        log_probs_T = token_log_probs(model.network, hidden_TD, torch.tensor(one.reply_ids))
        (-advantage * log_probs_T.sum() / (12 * 9)).backward()
    for name, parameter in model.network.named_parameters():
        # float32 gradients of 108 tokens summed in another order
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_a_fresh_rollout_is_on_policy_to_the_last_bit(model, roll):
    rollouts = roll(SamplingParams(max_tokens=40, ignore_eos=True))
    batch = policy_batch(rollouts, SETTINGS, pad_id=2)
    with torch.no_grad():
        assert torch.equal(policy_outputs(model.network, batch).log_probs_N, batch.sampled_log_probs_N)
    figures = policy_loss(model.network, batch, settings=SETTINGS).figures
    assert (figures["mismatch_kl"], figures["clip_ratio"]) == (0.0, 0.0)


def test_kl_is_0_against_itself_and_positive_against_another(model, config, roll):
    batch = policy_batch(roll(PARAMS), SETTINGS, pad_id=2)
    itself = policy_loss(model.network, batch, settings=SETTINGS, reference=model.network)
    other = policy_loss(model.network, batch, settings=SETTINGS, reference=Network(config, seed=2))
    assert itself.figures["kl"] == 0.0
    assert other.figures["kl"] > 0.01
    assert "kl" not in policy_loss(model.network, batch, settings=SETTINGS).figures
    assert other.total == itself.total, "kl is reported; it is no part of the loss"


@pytest.mark.parametrize(("beta", "num_rows"), [(0.0, grpo.KL_ROWS), (0.04, 48)])
def test_the_reference_reads_every_row_where_the_distance_is_in_the_loss_and_some_where_it_is_not(
    model, config, roll, beta, num_rows
):
    settings = GrpoSettings(num_prompts=6, num_samples=8, beta=beta)
    batch = policy_batch(roll(PARAMS, num_prompts=6, num_samples=8), settings, pad_id=2)
    assert len(batch.token_ids_BT) == 48
    reference = Network(config, seed=2)
    figures = policy_loss(model.network, batch, settings=settings, reference=reference).figures
    some = Batch(batch.token_ids_BT[:num_rows], batch.weights_BT[:num_rows])
    with torch.no_grad():
        apart_N = policy_outputs(reference, some).log_probs_N - policy_outputs(model.network, some).log_probs_N
    assert figures["kl"] == pytest.approx((apart_N.exp() - apart_N - 1).mean().item())


def test_a_group_of_equal_rewards_changes_nothing_but_the_count_of_tokens(model, roll):
    live_and_dead = roll(PARAMS, num_prompts=2, reward=lambda number, output: number * sum(output.token_ids))
    batch = policy_batch(live_and_dead, SETTINGS, pad_id=2)
    live = policy_batch(live_and_dead[4:], SETTINGS, pad_id=2)
    assert torch.equal(batch.token_ids_BT, live.token_ids_BT), "its rows are left out"
    gradients = [
        torch.autograd.grad(policy_loss(model.network, one, settings=SETTINGS).total, model.network.head_WD)[0]
        for one in (batch, live)
    ]
    assert gradients[1].norm() > 0
    torch.testing.assert_close(2 * gradients[0], gradients[1])
    assert (batch.divisor, live.divisor) == (72, 36)


def test_a_step_of_equal_rewards_only_moves_no_weight(model, roll):
    batch = policy_batch(roll(PARAMS, reward=lambda number, output: 0.1), SETTINGS, pad_id=2)
    loss = policy_loss(model.network, batch, settings=SETTINGS)
    loss.total.backward()
    assert loss.total.item() == 0
    assert all(parameter.grad.eq(0).all() for parameter in model.network.parameters())
    assert batch.figures["frac_reward_zero_std"] == 1.0
    assert loss.figures["mismatch_kl"] == 0.0


def test_tokens_meet_their_own_advantage_and_log_prob_whatever_the_lengths():
    settings = GrpoSettings(num_samples=2)
    rollouts = [
        rollout(1.0, reply=(5, 6, 7), log_probs=(-1.0, -2.0, -3.0)),
        rollout(0.0, reply=(8,), log_probs=(-4.0,)),
    ]
    batch = policy_batch(rollouts, settings, pad_id=2)
    assert batch.token_ids_BT.tolist() == [[3, 4, 5, 6, 7], [3, 4, 8, 2, 2]]
    assert batch.weights_BT.tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, 0, 0]]
    assert batch.advantages_N.tolist() == pytest.approx([1, 1, 1, -1])
    assert batch.sampled_log_probs_N.tolist() == [-1, -2, -3, -4]


@pytest.mark.parametrize(("algorithm", "weight", "divisor"), [("dapo", 1, 4), ("grpo", 1 / 3, 2), ("dr_grpo", 1, 100)])
def test_what_an_environment_wrote_is_read_and_neither_learnt_nor_counted(algorithm, weight, divisor):
    settings = GrpoSettings(num_samples=2, algorithm=algorithm, max_tokens=50)
    episode = Rollout(
        [3, 4], [5, 6, 7, 8, 9], [-1.0, -2.0, -3.0], 1.0, 0, "stop", is_sampled=[True, True, False, False, True]
    )
    batch = policy_batch([episode, rollout(0.0, reply=(8,), log_probs=(-4.0,))], settings, pad_id=2)
    assert batch.token_ids_BT.tolist() == [[3, 4, 5, 6, 7, 8, 9], [3, 4, 8, 2, 2, 2, 2]]
    expected = [[0, 0, weight, weight, 0, 0, weight], [0, 0, 1, 0, 0, 0, 0]]
    assert torch.equal(batch.weights_BT, torch.tensor(expected, dtype=torch.float32))
    assert batch.sampled_log_probs_N.tolist() == [-1, -2, -3, -4]
    assert batch.advantages_N.sign().tolist() == [1, 1, 1, -1]
    assert batch.divisor == divisor
    assert batch.figures["completions/mean_length"] == 2


def test_a_steps_figures_have_trls_names_and_describe_all_rollouts():
    rollouts = [
        *(rollout(1.0), rollout(0.0, reply=(5,), log_probs=(-1.0,)), rollout(0.5, reason="length"), rollout(0.5)),
        *(rollout(0.2), rollout(0.2), rollout(0.2), rollout(0.2, reply=[7] * 6, log_probs=[-1.0] * 6)),
    ]
    figures = policy_batch(rollouts, SETTINGS, pad_id=2).figures
    assert figures == {
        "num_prompts": 2,
        "reward": pytest.approx(0.35),
        "reward_std": pytest.approx((0.125**0.5 + 0) / 2),
        "frac_reward_zero_std": 0.5,
        "completions/mean_length": pytest.approx((2 * 6 + 1 + 6) / 8),
        "completions/clipped_ratio": 1 / 8,
        "completions/ungraded_ratio": 0.0,
    }


def test_the_loss_reports_what_trl_reports(model, roll):
    batch = policy_batch(roll(PARAMS), SETTINGS, pad_id=2)
    figures = policy_loss(model.network, batch, settings=SETTINGS, reference=model.network).figures
    assert figures.keys() >= {"loss", "entropy", "kl", "clip_ratio", "mismatch_kl", *batch.figures}
    assert 0 < figures["entropy"] < math.log(67)


def test_a_batch_without_rollouts_is_a_mistake_of_ours(model):
    empty = Batch(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2))
    with pytest.raises(AssertionError, match="build its batch with policy_batch"):
        policy_loss(model.network, empty, settings=SETTINGS)


@pytest.mark.parametrize(
    ("algorithm", "num_updates"), [("grpo", 12), ("dapo", 12), ("dr_grpo", 18), ("gspo", 12), ("cispo", 12)]
)
def test_rewarded_tokens_become_likelier(config, algorithm, num_updates):
    """The whole loop in small: a reward for even tokens, and the policy turns to them within a dozen updates.

    Dr.GRPO takes longer: unscaled, its advantages shrink as the rewards of a group agree.
    """
    model = Model(Network(config, seed=0), config, None)
    optimizer = HybridOptimizer(model.network.named_parameters(), OptimizerSettings(lr=1e-2, matrix_lr=None))
    settings = GrpoSettings(num_samples=8, max_tokens=6, algorithm=algorithm)
    params = SamplingParams(max_tokens=settings.max_tokens, ignore_eos=True)
    rewards = []
    for step in range(num_updates):
        rollouts = sample_rollouts(
            Engine(model),
            [[3], [4, 5]],
            lambda number, output: sum(token % 2 == 0 for token in output.token_ids) / 6,
            num_samples=8,
            params=params,
            seed=step,
        )
        batch = policy_batch(rollouts, settings, pad_id=2)
        loss = update(model.network, optimizer, batch, lambda n, b: policy_loss(n, b, settings=settings), 1.0)
        assert loss.figures["mismatch_kl"] == 0.0, f"off policy at step {step}"
        rewards.append(batch.figures["reward"])
    assert sum(rewards[:2]) / 2 < 0.65
    assert sum(rewards[-2:]) / 2 > 0.85


@pytest.mark.parametrize("num_updates", [1, 2, 3, 6])
def test_every_group_of_a_batch_is_learnt_from_in_one_of_its_updates(num_updates):
    rollouts = [rollout(0.0, reply=(5, number)) for number in range(24)]
    settings = GrpoSettings(num_prompts=6, num_samples=4, num_updates=num_updates, save_every=6)
    parts = [mini_batch(rollouts, settings, part) for part in range(num_updates)]
    groups = [
        tuple(one.reply_ids[1] for one in part[first : first + 4]) for part in parts for first in range(0, len(part), 4)
    ]
    assert sorted(groups) == [tuple(range(first, first + 4)) for first in range(0, 24, 4)]
    assert {len(part) for part in parts} == {24 // num_updates}


def test_a_second_update_on_a_batch_is_off_policy_and_its_figures_say_so(config, roll, model):
    optimizer = HybridOptimizer(model.network.named_parameters(), OptimizerSettings(lr=1e-2, matrix_lr=None))
    settings = GrpoSettings(num_prompts=2, num_samples=4, num_updates=2)
    rollouts = roll(PARAMS, num_prompts=2)
    figures = []
    for part in range(2):
        batch = policy_batch(mini_batch(rollouts, settings, part), settings, pad_id=2, is_fresh=part == 0)
        loss = update(model.network, optimizer, batch, lambda n, b: policy_loss(n, b, settings=settings), 1.0)
        figures.append(loss.figures)
    assert figures[0]["mismatch_kl"] == 0.0
    assert "update_kl" not in figures[0]
    assert figures[1]["update_kl"] > 1e-3
    assert figures[1]["clip_ratio"] > 0
    assert "mismatch_kl" not in figures[1]


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"num_updates": 5}, r"num_updates=5 must divide num_prompts=12, .* and save_every=10"),
        ({"num_updates": 4}, r"num_updates=4 must divide num_prompts=12, .* and save_every=10"),
        ({"num_updates": 0}, "num_updates=0 must be at least 1"),
        ({"num_refills": -1}, "num_refills=-1 must be at least 0"),
        ({"beta": -0.1}, "beta=-0.1 must be at least 0"),
        ({"correction": "tis"}, "correction=tis is none of none, tis_tokens, tis_sequences, mis_tokens"),
        ({"rollouts": "int5"}, "rollouts=int5 is none of exact, int8, int4"),
        ({"rollouts": "int8", "workers": 2}, "rollouts=int8 are sampled by the process that learns, and workers=2"),
        ({"router_bias": "moved"}, "router_bias=moved is none of frozen, updated, replayed"),
        ({"soft_tokens": 53}, r"soft_tokens=53 must lie between 0 \(no loss\) and max_tokens=52"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"top_p": 1.5}, "top_p=1.5 must lie above 0 and not above 1"),
        ({"save_every": 0}, "save_every=0 must be at least 1"),
        ({"reference_every": 4}, "reference_every=4 must divide save_every=10 or be a multiple of it"),
        ({"reference_every": 15}, "reference_every=15 must divide save_every=10 or be a multiple of it"),
    ],
)
def test_settings_that_cannot_be_kept_or_resumed_are_refused_in_a_sentence(setting, complaint):
    with pytest.raises(ValueError, match=complaint):
        GrpoSettings(**setting)


def test_settings_that_meet_at_whole_batches_are_taken():
    assert GrpoSettings(num_updates=2, reference_every=5).num_updates == 2
    assert GrpoSettings(reference_every=400).reference_every == 400
