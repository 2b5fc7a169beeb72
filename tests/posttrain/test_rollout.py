import torch

from gorae.engine import SamplingParams

PARAMS = SamplingParams(max_tokens=9, seed=123)


def test_rollouts_follow_from_weights_prompts_and_seed_alone(roll):
    first = roll(PARAMS)
    assert roll(PARAMS) == first
    assert roll(PARAMS, max_batch=5) == first, "however many the engine runs at once"
    assert roll(SamplingParams(max_tokens=9)) == first, "the seed is the step's, not the parameters'"
    assert roll(PARAMS, num_prompts=2) == first[:8], "whatever else is asked"


def test_other_weights_and_another_seed_give_other_rollouts(model, roll):
    first = roll(PARAMS)
    assert [one.reply_ids for one in roll(PARAMS, seed=1)] != [one.reply_ids for one in first]
    with torch.no_grad():
        model.network.head_WD[7] += 1.0
    assert [one.reply_ids for one in roll(PARAMS)] != [one.reply_ids for one in first]


def test_every_reply_of_a_prompt_has_draws_of_its_own(roll):
    rollouts = roll(SamplingParams(max_tokens=9, ignore_eos=True), num_samples=16, num_prompts=2)
    assert len({tuple(one.reply_ids) for one in rollouts}) == 32


def test_replies_come_prompt_by_prompt_and_the_reward_knows_the_prompt(prompts, roll):
    seen = []

    def reward(number, output):
        seen.append((number, output.prompt_token_ids, output.token_ids))
        return float(number)

    rollouts = roll(PARAMS, reward=reward)
    assert [one.prompt for one in rollouts] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert [one.reward for one in rollouts] == [float(one.prompt) for one in rollouts]
    assert seen == [(one.prompt, one.prompt_ids, one.reply_ids) for one in rollouts]
    assert all(one.prompt_ids == prompts[one.prompt] for one in rollouts)
    assert all(len(one.log_probs) == len(one.reply_ids) for one in rollouts)


def test_routings_travel_with_the_rollouts_where_they_are_asked_for(roll):
    plain, routed = roll(PARAMS), roll(SamplingParams(max_tokens=9, routings=True))
    assert plain == routed
    assert all(one.routings is None for one in plain)
    for one in routed:
        num_tokens = len(one.prompt_ids) + len(one.reply_ids) - 1
        assert one.routings.experts_LTA.shape == one.routings.weights_LTA.shape == (2, num_tokens, 3)
