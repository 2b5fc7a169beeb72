"""DeepSeek's FP8 format against loops in float64 over one block and one element at a time."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gorae.checkpoint import load, save_model
from gorae.checkpoint.fp8 import quantize, scales_shape, widen
from gorae.checkpoint.names import is_kept_exact, is_projection, kind_of

SHAPES = [(1, 1), (127, 129), (128, 128), (300, 257), (1, 300), (1100, 5)]  # the last is more than one band of rows
BYTES = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
CODES = BYTES[BYTES.isfinite()]  # every number float8_e4m3fn has

every_shape = pytest.mark.parametrize("shape", SHAPES)
both_scales = pytest.mark.parametrize("powers_of_two", [False, True])


def drawn(shape: tuple[int, int]) -> Tensor:
    """Magnitudes that differ from block to block and within one."""
    generator = torch.Generator().manual_seed(sum(shape))
    rows, columns = (torch.arange(size) // 128 for size in shape)
    sizes = 10.0 ** (rows[:, None] - 2 * columns[None])
    return torch.randn(shape, generator=generator) ** 3 * sizes


def blocks(shape: tuple[int, int]):
    """Each block's place among the scales, and its rows and columns."""
    for i in range(math.ceil(shape[0] / 128)):
        for j in range(math.ceil(shape[1] / 128)):
            yield (i, j), (slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128))


@every_shape
@both_scales
def test_scales_are_the_smallest_under_which_every_element_fits(shape, powers_of_two):
    weight = drawn(shape)
    _, scales = quantize(weight, "w", powers_of_two=powers_of_two)
    assert (scales.dtype, tuple(scales.shape)) == (torch.float32, scales_shape(shape))
    for place, block in blocks(shape):
        exact = weight[block].double().abs().max().item() / 448
        if powers_of_two:
            assert scales[place].item() == 2.0 ** math.ceil(math.log2(exact))
        else:
            assert scales[place].item() == torch.tensor(exact, dtype=torch.float32).item()


@every_shape
@both_scales
def test_every_value_is_a_nearest_one(shape, powers_of_two):
    weight = drawn(shape)
    values, scales = quantize(weight, "w", powers_of_two=powers_of_two)
    assert values.dtype == torch.float8_e4m3fn
    for place, block in blocks(shape):
        wanted = weight[block].double() / scales[place].double()
        best = torch.stack([(wanted - code).abs() for code in CODES]).amin(0)
        error = (wanted - values[block].double()).abs()
        assert (error <= best + 1e-6 * wanted.abs()).all()  # the quotient is rounded to float32 first


@every_shape
@both_scales
def test_widened_is_the_product_rounded_once(shape, powers_of_two):
    values, scales = quantize(drawn(shape), "w", powers_of_two=powers_of_two)
    widened = widen(values, scales, "w")
    expected = torch.empty(shape)
    for place, block in blocks(shape):
        expected[block] = (values[block].double() * scales[place].double()).float()
    assert torch.equal(widened, expected)


def test_every_number_of_the_format_survives_widening_and_quantising_again():
    values = CODES.repeat(128).view(-1, 127).to(torch.float8_e4m3fn)
    scales = torch.full(scales_shape(tuple(values.shape)), 0.25)
    again, scales_again = quantize(widen(values, scales, "w"), "w")
    assert torch.equal(again.float(), values.float())
    assert torch.equal(scales_again, scales)


def test_powers_of_two_stay_and_the_next_number_goes_up():
    exact = torch.tensor([[448.0]])
    assert quantize(exact, "w", powers_of_two=True)[1].item() == 1
    assert quantize(torch.nextafter(exact, 2 * exact), "w", powers_of_two=True)[1].item() == 2


@both_scales
def test_a_block_of_zeros_or_of_the_smallest_numbers_stays_finite(powers_of_two):
    for number in (0.0, -0.0, 1e-45, 1e-38, 3e38):
        values, scales = quantize(torch.full((3, 130), number), "w", powers_of_two=powers_of_two)
        assert (scales > 0).all()
        assert widen(values, scales, "w").isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_matrix_that_is_not_finite_is_named(bad):
    weight = torch.zeros(3, 200)
    weight[2, 199] = bad
    with pytest.raises(ValueError, match=r"layer\.weight has elements that are not finite"):
        quantize(weight, "layer.weight")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_a_scale_that_is_no_positive_number_is_named(bad):
    values = torch.zeros(3, 200, dtype=torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"layer\.weight_scale_inv has 1 scales .* such as"):
        widen(values, torch.tensor([[1.0, bad]]), "layer.weight")


def test_projections_of_attention_and_feed_forwards_are_told_from_all_else():
    kinds = {
        "model.layers.0.self_attn.q_proj.weight": "attention",
        "model.layers.0.self_attn.q_a_proj.weight": "attention",
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight": "attention",
        "model.layers.0.mlp.down_proj.weight": "dense",
        "model.layers.9.mlp.experts.13.up_proj.weight": "experts",
        "model.layers.61.mlp.shared_experts.gate_proj.weight": "shared experts",
    }
    others = {
        "model.layers.0.self_attn.q_proj.bias": "attention",
        "model.layers.0.self_attn.q_a_layernorm.weight": "norms",
        "model.layers.0.input_layernorm.weight": "norms",
        "model.layers.9.mlp.gate.weight": "router",
        "model.layers.9.mlp.gate.e_score_correction_bias": "router",
        "model.layers.61.eh_proj.weight": "mtp",
        "model.layers.61.enorm.weight": "norms",
        "model.layers.61.shared_head.norm.weight": "norms",
        "model.layers.61.shared_head.head.weight": "head",
        "model.layers.61.embed_tokens.weight": "embedding",
        "model.embed_tokens.weight": "embedding",
        "model.norm.weight": "norms",
        "lm_head.weight": "head",
        "rotary.inv_freq": "other",
    }
    assert {name: kind_of(name) for name in kinds | others} == kinds | others
    assert [name for name in kinds | others if is_projection(name)] == list(kinds)
    assert [name for name in others if is_kept_exact(name)] == ["model.layers.9.mlp.gate.e_score_correction_bias"]


@pytest.fixture
def folder(tmp_path, network) -> Path:
    """A checkpoint with its projections in FP8."""
    save_model(tmp_path / "model", network)
    change(tmp_path / "model", quantize_projections)
    return tmp_path / "model"


def quantize_projections(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if is_projection(name)]:
        tensors[name], tensors[name + "_scale_inv"] = quantize(tensors[name], name)


def change(folder: Path, how) -> None:
    tensors = load_file(folder / "model.safetensors")
    how(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_a_checkpoint_in_fp8_is_loaded_as_what_its_values_and_scales_stand_for(tmp_path, folder, network):
    def widen_all(tensors):
        for name in [name for name in tensors if is_projection(name)]:
            tensors[name] = widen(tensors[name], tensors.pop(name + "_scale_inv"), name)

    loaded = load(folder, weights="float32").network.state_dict()
    change(folder, widen_all)
    expected, original = load(folder, weights="float32").network.state_dict(), network.state_dict()
    assert all(torch.equal(held, expected[name]) for name, held in loaded.items())
    exact = {name for name, held in loaded.items() if torch.equal(held, original[name])}
    assert {"embedding_WD", "head_WD", "blocks.1.feed_forward.router_ED", "mtp.0.join_DDD"} <= exact
    assert "blocks.1.feed_forward.up_EFD" not in exact


def test_everything_wrong_with_values_and_scales_is_told_at_once(folder):
    def spoil(tensors):
        del tensors["model.layers.0.mlp.up_proj.weight_scale_inv"]
        tensors["model.layers.0.mlp.down_proj.weight_scale_inv"] = torch.ones(2, 1)
        tensors["model.layers.1.mlp.experts.0.up_proj.weight_scale_inv"] = torch.ones(1, 1, dtype=torch.bfloat16)
        tensors["model.layers.1.mlp.experts.1.up_proj.weight_scale_inv"].fill_(math.nan)
        tensors["model.layers.1.mlp.gate.weight_scale_inv"] = torch.ones(1, 1)
        tensors["model.layers.9.mlp.gate.weight_scale_inv"] = torch.ones(1, 1)

    change(folder, spoil)
    with pytest.raises(ValueError) as caught:
        load(folder)
    told = sorted(str(caught.value).splitlines()[1:])
    for line, start in zip(
        told,
        [
            "  missing: model.layers.0.mlp.up_proj.weight_scale_inv, the scales of",
            "  shape: model.layers.0.mlp.down_proj.weight_scale_inv is F32 [2, 1]; F8_E4M3 [20, 28] takes F32 [1, 1]",
            "  shape: model.layers.1.mlp.experts.0.up_proj.weight_scale_inv is BF16 [1, 1]",
            "  type: model.layers.1.mlp.gate.weight_scale_inv scales F32 [8, 20]; only matrices of F8_E4M3",
            "  unknown: model.layers.9.mlp.gate.weight_scale_inv",
            "  value: model.layers.1.mlp.experts.1.up_proj.weight_scale_inv has 1 scales",
        ],
        strict=True,
    ):
        assert line.startswith(start)
