import pytest
import torch

# (experts, active, model width, expert width)
SIZES = [(1, 1, 8, 3), (4, 2, 37, 5), (12, 3, 24, 16), (16, 4, 64, 40)]


def drawn(doors, normal, num_tokens, size):
    num_experts, num_active, model_dim, expert_dim = size
    routing = doors.route(normal(num_tokens, num_experts), torch.zeros(num_experts), num_active=num_active)
    tensors = normal(num_tokens, model_dim), routing.weights_NA
    weights = [0.3 * normal(num_experts, expert_dim, model_dim) for _ in range(2)]
    return routing.experts_NA, (*tensors, *weights, 0.3 * normal(num_experts, model_dim, expert_dim))


@pytest.mark.parametrize("num_tokens", [0, 1, 63, 65])
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients_are_those_of_the_dense_sum(doors, normal, agree, num_tokens, size):
    experts, tensors = drawn(doors, normal, num_tokens, size)

    def plain(x, weights, gate, up, down):
        """Every token through every expert; those not chosen weigh nothing."""
        inner_NEF = torch.nn.functional.silu(torch.einsum("nd,efd->nef", x, gate)) * torch.einsum("nd,efd->nef", x, up)
        share_NE = torch.zeros(num_tokens, size[0], dtype=x.dtype).scatter(1, experts, weights)
        return torch.einsum("nef,edf,ne->nd", inner_NEF, down, share_NE)

    def door(x, weights, gate, up, down):
        return doors.expert_mlp(x, experts, weights, gate, up, down)

    agree(door, plain, *tensors)


def test_experts_in_bfloat16_give_the_bits_and_gradients_of_their_numbers_in_float32(doors, normal):
    experts, (x, weights, *rest) = drawn(doors, normal, 40, (4, 2, 37, 5))
    narrow = [weight.bfloat16().requires_grad_() for weight in rest]
    wide = [weight.detach().float().requires_grad_() for weight in narrow]
    y, expected = (doors.expert_mlp(x, experts, weights, *held) for held in (narrow, wide))
    assert torch.equal(y, expected)
    y.sum().backward()
    expected.sum().backward()
    for ours, theirs in zip(narrow, wide, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad.bfloat16(), rtol=0.01, atol=0)  # a bfloat16 has 8 bits


@pytest.mark.parametrize("size", SIZES)
def test_a_token_does_not_depend_on_the_tokens_beside_it(doors, normal, size):
    experts, (x, weights, *rest) = drawn(doors, normal, 130, size)
    y = doors.expert_mlp(x, experts, weights, *rest)
    for token in range(0, 130, 7):
        part = slice(token, token + 1)
        assert torch.equal(doors.expert_mlp(x[part], experts[part], weights[part], *rest)[0], y[token])


def test_strides_and_threads_change_nothing(doors, normal, at_threads):
    experts, (x, weights, *rest) = drawn(doors, normal, 257, (4, 2, 96, 64))
    scattered = [tensor.transpose(-1, -2).contiguous().transpose(-1, -2) for tensor in (x, weights, *rest)]
    one = at_threads(1, lambda: doors.expert_mlp(x, experts, weights, *rest))
    two = at_threads(2, lambda: doors.expert_mlp(scattered[0], experts, *scattered[1:]))
    assert torch.equal(one, two)
