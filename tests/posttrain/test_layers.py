"""A mismatch that was planted in one part is found there, and nothing is found where nothing was planted."""

from dataclasses import replace

import pytest
import torch

from gorae.config import ModelConfig
from gorae.model import Network, made_fast
from gorae.posttrain import Comparison, Difference, compare_layers
from gorae.posttrain.layers import GoraeBody

LONG = [torch.randint(3, 67, (40,), generator=torch.Generator().manual_seed(4)).tolist()]
DENSE = ModelConfig.dense(
    vocab_size=67, model_dim=24, num_layers=3, num_heads=4, head_dim=6, dense_dim=28, num_key_heads=2, init_std=0.2
)


@pytest.fixture
def network(model) -> Network:
    return model.network


def copied(network: Network, **changes) -> Network:
    """The same weights under a config with changes."""
    copy = Network(replace(network.config, **changes))
    copy.load_state_dict(network.state_dict())
    return copy.eval()


def compared(a: Network, b: Network) -> Comparison:
    return compare_layers(GoraeBody(a), GoraeBody(b), LONG)


def found(a: Network, b: Network) -> list[Difference]:
    return compared(a, b).outstanding


def parts(a: Network, b: Network) -> list[str]:
    return [one.part for one in found(a, b)]


def test_of_a_clean_pair_every_part_differs_by_exactly_0(network):
    clean = compared(network, copied(network))
    assert {(one.size, one.flipped) for one in clean.parts} == {(0.0, 0.0)}
    assert clean.outstanding == []
    assert [one.part for one in clean.parts] == [
        *("embedding", "layer 0 attention norm", "layer 0 attention", "layer 0 feed-forward norm"),
        *("layer 0 feed-forward", "layer 1 attention norm", "layer 1 attention", "layer 1 feed-forward norm"),
        *("layer 1 router", "layer 1 experts", "layer 2 attention norm", "layer 2 attention"),
        *("layer 2 feed-forward norm", "layer 2 router", "layer 2 experts", "final norm", "head"),
    ]


@pytest.mark.parametrize("changes", [{"rope_theta": 5e3}, {"rope_interleaved": False}])
def test_a_wrong_rotary_position_is_found_in_attention_from_the_first_layer_on_and_nowhere_else(network, changes):
    assert parts(network, copied(network, **changes)) == [f"layer {layer} attention" for layer in range(3)]


def test_a_wrong_rotary_position_is_found_in_plain_attention_too():
    network = Network(DENSE, seed=0)
    assert parts(network, copied(network, rope_theta=5e3)) == [f"layer {layer} attention" for layer in range(3)]


@torch.no_grad()
def test_a_flipped_router_is_found_in_its_layer_and_its_experts_are_not_blamed(network):
    other = copied(network)
    other.blocks[2].feed_forward.bias_E.copy_(other.blocks[2].feed_forward.bias_E.flip(0))
    comparison = compared(network, other)
    (difference,) = comparison.outstanding
    assert difference.part == "layer 2 router"
    assert difference.flipped > 0.1
    assert 0.1 * 40 < comparison.flipped <= 40, "those of layer 1 read the same in both"
    assert comparison.decided == 80


@torch.no_grad()
def test_a_router_of_one_other_weight_is_found_even_where_no_token_goes_elsewhere(network):
    other = copied(network, routing_scale=1.001)
    comparison = compared(network, other)
    assert [one.part for one in comparison.outstanding] == ["layer 1 router", "layer 2 router"]
    assert {one.flipped for one in comparison.parts} == {0.0}


@pytest.mark.parametrize("bits", ["bfloat16", "int8"])
@torch.no_grad()
def test_a_rounded_head_is_found(network, bits):
    other = copied(network)
    step = other.head_WD.abs().max() / 127
    other.head_WD.copy_(other.head_WD.bfloat16() if bits == "bfloat16" else (other.head_WD / step).round() * step)
    (difference,) = found(network, other)
    assert difference.part == "head"
    assert 1e-4 < difference.size < 1e-1


@pytest.mark.parametrize(
    ("weight", "part"),
    [
        ("embedding_WD", "embedding"),
        ("blocks.1.attention_norm_D", "layer 1 attention norm"),
        ("blocks.1.attention.output_DHV", "layer 1 attention"),
        ("blocks.0.feed_forward_norm_D", "layer 0 feed-forward norm"),
        ("blocks.0.feed_forward.up_FD", "layer 0 feed-forward"),
        ("blocks.2.feed_forward.up_EFD", "layer 2 experts"),
        ("blocks.2.feed_forward.shared.down_DF", "layer 2 experts"),
        ("blocks.2.feed_forward.router_ED", "layer 2 router"),
        ("norm_D", "final norm"),
    ],
)
@torch.no_grad()
def test_a_weight_changed_in_its_third_digit_is_found_in_its_part_alone(network, weight, part):
    other = copied(network)
    other.get_parameter(weight).mul_(1.01)
    assert parts(network, other) == [part]


def test_two_plants_are_both_found_though_one_lies_behind_the_other(network):
    other = copied(network, rope_theta=5e3)
    with torch.no_grad():
        other.head_WD.copy_(other.head_WD.bfloat16())
    assert parts(network, other)[0] == "layer 0 attention"
    assert parts(network, other)[-1] == "head"


@torch.no_grad()
def test_a_plant_is_found_above_rounding_that_is_everywhere(network):
    other = copied(network)
    for parameter in other.parameters():
        parameter.mul_(1 + 1e-6 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert parts(network, other) == [], "what rounding explains stands out nowhere"
    other.blocks[1].attention.output_DHV.mul_(1.001)
    assert parts(network, other) == ["layer 1 attention"]


def test_fast_mode_differs_in_attention_alone(network):
    assert parts(network, made_fast(copied(network))) == [f"layer {layer} attention" for layer in range(3)]


def test_looking_changes_nothing(network):
    ids = torch.tensor(LONG)
    before = network(ids).hidden_BTD
    found(network, copied(network, rope_theta=5e3))
    assert torch.equal(network(ids).hidden_BTD, before)


def test_networks_of_other_shapes_are_refused(network):
    changed = {
        r"layer 2 attention norm makes \[1, 40, 24\] numbers in one and nothing in the other": {"num_layers": 2},
        r"layer 1 router makes \[40, 3\] numbers in one and nothing in the other": {"num_dense_layers": 2},
        r"layer 1 router makes \[40, 3\] numbers in one and \[40, 2\]": {"num_active_experts": 2},
        r"embedding makes \[1, 40, 24\] numbers in one and \[1, 40, 20\]": {"model_dim": 20},
    }
    for message, changes in changed.items():
        with pytest.raises(ValueError, match=message):
            compared(network, Network(replace(network.config, **changes)))
