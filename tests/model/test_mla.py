import pytest
import torch

from gorae.kernels import rotary_angles
from gorae.model.mla import LatentAttention
from gorae.model.rope import rotary_frequencies


def plain(x_BTD, weights, config):
    """Multi-head latent attention straight from arXiv 2405.04434, eq. 9-19 and 37-47, head by head."""

    def normed(x, weight):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * weight

    def turned(x_BTR):
        pairs = torch.arange(config.rope_dim // 2, dtype=torch.float64)
        places = torch.arange(x_BTR.shape[1], dtype=torch.float64)
        angles = places[:, None] * config.rope_theta ** (-2 * pairs / config.rope_dim)
        pairs_BTR = torch.view_as_complex(x_BTR.contiguous().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs_BTR * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    heads, nope = config.num_heads, config.nope_dim
    query_BTQ = normed(torch.einsum("btd,qd->btq", x_BTD, weights["query_down_QD"]), weights["query_norm_Q"])
    query_BTHK = torch.einsum("btq,hkq->bthk", query_BTQ, weights["query_up_HKQ"].unflatten(0, (heads, -1)))
    down_BSC, rope_BSR = torch.einsum("bsd,cd->bsc", x_BTD, weights["latent_down_CRD"]).split(
        (config.latent_dim, config.rope_dim), -1
    )
    latent_BSC = normed(down_BSC, weights["latent_norm_C"])
    up_HKVC = weights["latent_up_HKVC"].unflatten(0, (heads, -1))
    output_DHV = weights["output_DHV"].unflatten(1, (heads, -1))
    hidden_TS = torch.ones(x_BTD.shape[1], x_BTD.shape[1], dtype=torch.bool).triu(1)
    y_BTD = torch.zeros_like(x_BTD)
    for head in range(heads):
        scores_BTS = torch.einsum(
            "btk,bsc,kc->bts", query_BTHK[:, :, head, :nope], latent_BSC, up_HKVC[head, :nope]
        ) + torch.einsum("btr,bsr->bts", turned(query_BTHK[:, :, head, nope:]), turned(rope_BSR))
        weights_BTS = (scores_BTS / config.key_dim**0.5).masked_fill(hidden_TS, float("-inf")).softmax(-1)
        y_BTD = y_BTD + torch.einsum(
            "bts,bsc,vc,dv->btd", weights_BTS, latent_BSC, up_HKVC[head, nope:], output_DHV[:, head]
        )
    return y_BTD


@pytest.mark.parametrize("num_tokens", [1, 9, 70])
def test_values_and_gradients_are_those_of_the_papers_equations(network, config, num_tokens):
    attention: LatentAttention = network.blocks[1].attention
    x_BTD = torch.randn(2, num_tokens, config.model_dim, generator=torch.Generator().manual_seed(0))
    angles, mask = network.places(torch.zeros(1, dtype=torch.long), num_tokens)
    ours = {"x": x_BTD.clone().requires_grad_(), **dict(attention.named_parameters())}
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in ours.items()}

    y_BTD = attention(ours["x"], angles, mask)
    expected_BTD = plain(exact["x"], exact, config)
    # float32 through four projections: rounding of about 1e-6 of the largest value
    torch.testing.assert_close(y_BTD.double(), expected_BTD, rtol=0, atol=1e-5 * expected_BTD.abs().max().item())

    y_BTD.square().sum().backward()
    expected_BTD.square().sum().backward()
    for name, tensor in ours.items():
        right = exact[name].grad
        assert tensor.grad is not None
        assert right is not None
        torch.testing.assert_close(tensor.grad.double(), right, rtol=0, atol=2e-5 * right.abs().max().item(), msg=name)


def test_position_counts_by_distance_alone(network, config):
    """Moving a whole sequence along changes nothing but rounding: RoPE is relative."""
    attention: LatentAttention = network.blocks[0].attention
    x_BTD = torch.randn(1, 12, config.model_dim, generator=torch.Generator().manual_seed(0))
    _, mask = network.places(torch.zeros(1, dtype=torch.long), 12)
    here, there = (
        rotary_angles(torch.arange(12)[None] + start, rotary_frequencies(config, torch.device("cpu")))[:, :, None]
        for start in (0, 500)
    )
    # angles near 500 radians have rounding of 3e-5
    torch.testing.assert_close(attention(x_BTD, here, mask), attention(x_BTD, there, mask), rtol=0, atol=1e-3)
