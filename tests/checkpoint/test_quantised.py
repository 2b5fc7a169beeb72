"""Folders in panels: what `gorae convert` packs, lies where the kernels read it, and comes back as it was."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import gorae
from gorae.checkpoint import convert, convert_to_gguf, inspect, load, save_model
from gorae.checkpoint.absorbed import expanded
from gorae.checkpoint.names import kind_of
from gorae.checkpoint.quantised import chosen_bits, panel_shapes
from gorae.checkpoint.safetensors import TensorFile
from gorae.cli import main
from gorae.config import ModelConfig, RopeScaling, count_parameters
from gorae.kernels import HeldExperts, Panels, pack, unpack
from gorae.model import Absorbed, Network, absorbed_matrices

V3 = ModelConfig(
    vocab_size=300,
    model_dim=72,
    num_layers=3,
    num_heads=2,
    query_rank=48,
    latent_dim=40,
    nope_dim=10,
    rope_dim=6,
    value_dim=14,
    dense_dim=100,
    expert_dim=36,
    num_experts=8,
    num_active_experts=3,
    num_expert_groups=4,
    num_active_groups=2,
    num_mtp_modules=1,
    routing_scale=2.5,
    rope_scaling=RopeScaling("yarn", 4.0, 16, mscale=1.0, mscale_all_dim=1.0),
    init_std=0.08,
)
V2 = replace(
    V3,
    query_rank=None,
    router="softmax",
    normalize_routing=False,
    num_expert_groups=1,
    num_active_groups=1,
    num_mtp_modules=0,
)
QWEN = ModelConfig.dense(
    vocab_size=300,
    model_dim=96,
    num_layers=2,
    num_heads=6,
    head_dim=16,
    dense_dim=130,
    num_key_heads=2,
    attention_bias=True,
    tie_embeddings=True,
    init_std=0.08,
)
LLAMA = replace(QWEN, attention_bias=False, tie_embeddings=False)
SHAPES = {"v3": V3, "v2": V2, "qwen2": QWEN, "llama": LLAMA}
QUANTISED = ("int4", "int8", "mixed")
TOKENS = list(range(7, 60))
KV_B = "model.layers.1.self_attn.kv_b_proj.weight"


def drawn(config: ModelConfig) -> Network:
    """Weights that bfloat16 holds exactly; biases and norms drawn too."""
    generator = torch.Generator().manual_seed(0)
    network = Network(config, seed=1)
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 1:
            tensor.copy_((0.0 if "bias" in name else 1.0) + 0.2 * torch.randn(tensor.shape, generator=generator))
        tensor.copy_(tensor.bfloat16())
    return network


@pytest.fixture(params=SHAPES)
def shape(request) -> str:
    return request.param


@pytest.fixture
def source(tmp_path, shape) -> Path:
    return saved(tmp_path / "source", SHAPES[shape])


def saved(folder: Path, config: ModelConfig) -> Path:
    """A checkpoint in bfloat16 with float32 router biases, as published ones are."""
    save_model(folder, drawn(config))
    tensors = load_file(folder / "model.safetensors")
    narrow = {name: held if name.endswith("correction_bias") else held.bfloat16() for name, held in tensors.items()}
    save_file(narrow, folder / "model.safetensors", {"format": "pt"})
    return folder


def tensors_in(folder: Path) -> dict[str, Tensor]:
    return {name: held for path in sorted(folder.glob("*.safetensors")) for name, held in load_file(path).items()}


def config_in(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def change_config(folder: Path, **changes) -> None:
    (folder / "config.json").write_text(json.dumps(config_in(folder) | changes))


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors*")}


def packed(name: str, weight: Tensor, bits: dict[str, int], config: ModelConfig) -> dict[str, Tensor]:
    """What a tensor has to become."""
    kind = kind_of(name)
    if name.endswith("kv_b_proj.weight") and "absorbed" in bits:
        prefix = name.removesuffix("kv_b_proj.weight")
        names = (f"{prefix}key_absorb_proj.weight", f"{prefix}value_up_proj.weight")
        return {new: pack(part, 8).packed for new, part in zip(names, absorbed_matrices(weight, config), strict=True)}
    if name.endswith(".weight") and kind in bits:
        return {name: pack(weight, bits[kind]).packed}
    return {name: weight.float() if min(bits.values()) < 16 and kind != "embedding" else weight}


@pytest.mark.parametrize("to", [*QUANTISED, "bf16-panels"])
def test_every_matrix_lies_packed_at_the_bits_of_its_kind_and_all_else_as_it_is(tmp_path, source, shape, to):
    config = SHAPES[shape]
    convert(source, tmp_path / "new", to)
    quantization = config_in(tmp_path / "new")["quantization_config"]
    bits = quantization.pop("bits")
    assert quantization == {"quant_method": "gorae", "layout": 1}
    latent = {"experts", "shared experts"} | (set() if to == "bf16-panels" else {"absorbed"})
    kinds = {"attention", "dense"} | (latent if config.latent_dim else set())
    kinds |= (set() if config.tie_embeddings else {"head"}) | ({"mtp"} if config.num_mtp_modules else set())
    assert set(bits) == kinds
    low = {"int4": kinds - {"absorbed", "head"}, "mixed": {"experts" if config.num_experts else "dense"}}.get(to, set())
    high = 16 if to == "bf16-panels" else 8
    assert bits == {kind: 4 if kind in low else high for kind in kinds}
    expected = {}
    for name, weight in tensors_in(source).items():
        is_repeated = name.startswith("model.layers.3.") and kind_of(name) in ("embedding", "head")
        if not is_repeated and not (config.tie_embeddings and name == "lm_head.weight"):
            expected |= packed(name, weight, bits, config)
    found = tensors_in(tmp_path / "new")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name


def test_the_absorbed_form_has_the_numbers_of_the_expanded_one_where_the_contract_says():
    weight = torch.arange(2 * (10 + 14) * 40.0).view(-1, 40)
    key_absorb_HCK, value_up_HVC = absorbed_matrices(weight, V3)
    head, key, latent, value = 1, 7, 33, 5
    assert key_absorb_HCK[head * 40 + latent, key] == weight[head * 24 + key, latent]
    assert value_up_HVC[head * 14 + value, latent] == weight[head * 24 + 10 + value, latent]
    assert torch.equal(expanded(Absorbed(key_absorb_HCK, value_up_HVC), V3), weight)


@pytest.mark.parametrize("to", QUANTISED)
def test_panels_lie_at_lines_of_the_cache_and_are_used_where_the_file_is_mapped(tmp_path, source, to):
    convert(source, tmp_path / "new", to)
    with TensorFile(tmp_path / "new" / "model.safetensors") as file:
        assert all(entry.begin % 64 == 0 for entry in file.entries.values() if entry.layout.dtype == torch.uint8)
    network = load(tmp_path / "new").network
    held = network.blocks[1].attention.output_DHV
    assert isinstance(held, Panels)
    address = held.packed.data_ptr()
    assert address % 64 == 0
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "model.safetensors" in line]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in maps]
    assert any(begin <= address < end for begin, end in ranges)


def test_a_quantised_network_is_fast_and_holds_what_the_contract_says(tmp_path, source, shape):
    config = SHAPES[shape]
    convert(source, tmp_path / "new", "mixed")
    model = load(tmp_path / "new")
    network = model.network
    assert network.is_fast
    assert not load(source).network.is_fast
    assert not any(tensor.is_meta for tensor in network.state_dict().values())
    assert network.embedding_WD.dtype == torch.bfloat16
    assert network.norm_D.dtype == torch.float32
    blocks = [*network.blocks, *(module.block for module in network.mtp)]
    for block in blocks:
        assert block.attention_norm_D.dtype == torch.float32
        assert block.attention.output_DHV.bits == 8
    if config.latent_dim is None:
        assert network.blocks[0].feed_forward.down_DF.bits == 4
        return
    for block in blocks:
        assert not hasattr(block.attention, "latent_up_HKVC")
        assert block.attention.key_absorb_HCK[1:] == (8, (2 * 40, 10))
        assert block.attention.value_up_HVC[1:] == (8, (2 * 14, 40))
    mixture = network.blocks[1].feed_forward
    assert mixture.router_ED.dtype == torch.float32
    assert isinstance(mixture.down_EDF, HeldExperts)
    assert [one[1:] for one in mixture.down_EDF] == [(4, (72, 36))] * 8
    weight = tensors_in(source)["model.layers.1.mlp.experts.5.down_proj.weight"]
    assert torch.equal(unpack(mixture.down_EDF[5]), unpack(pack(weight, 4)))


def test_16_bits_in_panels_lose_nothing_and_compute_exactly(tmp_path, source):
    errors = convert(source, tmp_path / "new", "bf16-panels")
    assert {error.largest for error in errors.values()} == {0.0}
    exact, found = load(source), load(tmp_path / "new", "exact")
    assert torch.equal(found.logits(TOKENS), exact.logits(TOKENS))
    assert not load(tmp_path / "new").network.is_fast
    wide = load(tmp_path / "new", weights="float32").network.state_dict()
    for name, tensor in load(source, weights="float32").network.state_dict().items():
        assert torch.equal(wide[name], tensor), name


@pytest.mark.parametrize("to", [*QUANTISED, "bf16-panels"])
def test_a_network_that_is_saved_again_gives_the_same_bytes(tmp_path, source, to):
    convert(source, tmp_path / "new", to)
    save_model(tmp_path / "again", load(tmp_path / "new").network)
    assert files_in(tmp_path / "again") == files_in(tmp_path / "new")
    quantization = config_in(tmp_path / "again")["quantization_config"]
    assert quantization == config_in(tmp_path / "new")["quantization_config"]


@pytest.mark.parametrize("to", [*QUANTISED, "bf16-panels"])
def test_widening_gives_the_numbers_that_panels_stand_for(tmp_path, source, shape, to):
    config = SHAPES[shape]
    convert(source, tmp_path / "new", to)
    assert convert(tmp_path / "new", tmp_path / "wide", "f32") == {}
    held, wide = load(tmp_path / "new").network, tensors_in(tmp_path / "wide")
    assert torch.equal(wide["model.layers.1.self_attn.o_proj.weight"], unpack(held.blocks[1].attention.output_DHV))
    if config.latent_dim is not None and to != "bf16-panels":
        attention = held.blocks[1].attention
        pair = Absorbed(unpack(attention.key_absorb_HCK), unpack(attention.value_up_HVC))
        assert torch.equal(wide[KV_B], expanded(pair, config))
    assert "quantization_config" not in config_in(tmp_path / "wide")
    assert load(tmp_path / "wide").config == load(source).config
    steps = {"bf16-panels": 0, "int8": 0.01, "int4": 0.1, "mixed": 0.1}[to]  # see test_formats_load.py
    for name, tensor in wide.items():
        original = tensors_in(source)[name].float()
        assert (tensor - original).norm() <= steps * original.norm(), name


def test_16_bits_in_panels_go_back_to_the_same_bfloat16(tmp_path, source):
    convert(source, tmp_path / "new", "bf16-panels")
    convert(tmp_path / "new", tmp_path / "back", "bf16")
    before, after = tensors_in(source), tensors_in(tmp_path / "back")
    assert all(
        torch.equal(tensor, before[name]) and tensor.dtype == before[name].dtype for name, tensor in after.items()
    )
    assert {kind_of(name) for name in before.keys() - after.keys()} <= {"head", "embedding"}, "MTP's copies"


@pytest.mark.parametrize("to", [*QUANTISED, "bf16-panels"])
def test_fp8_and_gguf_are_packed_from_the_numbers_they_stand_for(tmp_path, source, to):
    convert(source, tmp_path / "fp8", "fp8")
    convert_to_gguf(source, tmp_path / "q8.gguf", "q8_0")
    for begun in (tmp_path / "fp8", tmp_path / "q8.gguf"):
        convert(begun, tmp_path / "wide", "f32")
        convert(begun, tmp_path / "new", to)
        convert(tmp_path / "wide", tmp_path / "expected", to)
        expected, found = tensors_in(tmp_path / "expected"), tensors_in(tmp_path / "new")
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert torch.equal(tensor.float(), expected[name].float()), name
        for name in ("wide", "new", "expected"):
            for path in (tmp_path / name).iterdir():
                path.unlink()
            (tmp_path / name).rmdir()


@pytest.mark.parametrize("config", [QWEN, LLAMA], ids=["qwen2", "llama"])
# Errors of weights (see test_formats_load.py) and of activations, 0.5% each at 8 bits, in some ten products.
@pytest.mark.parametrize(("to", "largest"), [("int8", 0.03), ("int4", 0.25), ("mixed", 0.25)])
def test_logits_are_near_the_original_and_nearer_to_the_numbers_packed(tmp_path, config, to, largest):
    source = saved(tmp_path / "source", config)
    convert(source, tmp_path / "new", to)
    convert(tmp_path / "new", tmp_path / "wide", "f32")
    exact, wide, found = (load(tmp_path / name).logits(TOKENS) for name in ("source", "wide", "new"))
    assert 0 < (found - wide).std() / wide.std() < 0.02, "activations are rounded to 8 bits"
    assert 0 < (found - exact).std() / exact.std() < largest


@pytest.mark.parametrize("to", QUANTISED)
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_the_engine_says_greedily_what_the_logits_say(tmp_path, config, to):
    convert(saved(tmp_path / "source", config), tmp_path / "new", to)
    model = load(tmp_path / "new")
    prompts = [TOKENS[:9], TOKENS[:20]]
    sampling = gorae.SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    outputs = gorae.Engine(model).generate(prompts, sampling)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert len(output.token_ids) == 12
        logits = model.logits([*prompt, *output.token_ids])[len(prompt) - 1 : -1]
        said = logits.gather(1, torch.tensor(output.token_ids)[:, None])[:, 0]
        assert (said >= logits.amax(1) - 0.01 * logits.std()).all(), "keys may be cached in bfloat16"


def test_a_mode_that_the_weights_do_not_allow_is_refused_with_what_to_do(tmp_path, source):
    convert(source, tmp_path / "new", "int4")
    for asked in ({"mode": "exact"}, {"weights": "float32"}, {"mode": "fast", "weights": "float32"}):
        with pytest.raises(ValueError, match=r"new holds weights quantised to 4( and 8)? bits, which .* gorae convert"):
            load(tmp_path / "new", **asked)
    with pytest.raises(ValueError, match="mode='quick' must be one of 'exact', 'fast', or None"):
        load(source, "quick")


@pytest.mark.parametrize("held", ["bf16", "f32", "fp8", "bf16-panels", "gguf", "float32"])
def test_an_unquantised_network_in_fast_mode_has_its_weights_and_the_absorbed_form(tmp_path, source, shape, held):
    config = SHAPES[shape]
    path = tmp_path / "new"
    if held == "gguf":
        path = tmp_path / "new.gguf"
        convert_to_gguf(source, path, "f16")
    else:
        convert(source, path, "bf16" if held == "float32" else held)
    network = load(path, "fast", weights="float32" if held == "float32" else "stored").network
    assert network.is_fast
    assert isinstance(network.norm_D, Tensor)
    if config.latent_dim is not None:
        wide = load(path, weights="float32") if held != "gguf" else load(path)
        wanted = torch.bfloat16 if held == "bf16" else torch.float32
        for block, before in zip(network.blocks, wide.network.blocks, strict=True):
            expected = absorbed_matrices(before.attention.latent_up_HKVC, config)
            found = (block.attention.key_absorb_HCK, block.attention.value_up_HVC)
            assert all(one.dtype == wanted for one in found)
            assert all(torch.equal(one, two.to(wanted)) for one, two in zip(found, expected, strict=True))
            assert not hasattr(block.attention, "latent_up_HKVC")
    with pytest.raises(ValueError, match="mode='fast' from weights that are not quantised can not be saved"):
        save_model(tmp_path / "saved", network)


def test_what_is_quantised_is_not_quantised_again(tmp_path, source):
    convert(source, tmp_path / "int8", "int8")
    with pytest.raises(ValueError, match="int8 is quantised to 8 bits already, which would add error to error"):
        convert(tmp_path / "int8", tmp_path / "new", "int4")
    convert(source, tmp_path / "panels", "bf16-panels")
    convert(tmp_path / "panels", tmp_path / "again", "int8")
    assert files_in(tmp_path / "again") == files_in(tmp_path / "int8")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"layout": 2}, r"layout=2 and this Gorae reads 1: use the version that wrote"),
        ({"layout": None}, r"layout=None and this Gorae reads 1"),
        ({"bits": {}}, r"bits=\{\}, which must give 4, 8, 16 for some of attention"),
        ({"bits": None}, r"bits=None, which must give"),
        ({"bits": {"attention": 5}}, r"bits=\{'attention': 5\}, which must"),
        ({"bits": {"attention": True}}, r"bits=\{'attention': True\}, which must"),
        ({"bits": {"norms": 8}}, r"bits=\{'norms': 8\}, which must"),
        ({"group_size": 128}, r"has group_size; take config\.json from where"),
        ({"quant_method": "awq"}, r"quant_method='awq'; of quantised weights only"),
    ],
)
@pytest.mark.parametrize("take", [load, inspect, lambda path: convert(path, path.with_name("x"), "bf16")])
def test_a_quantization_config_that_is_not_ours_is_refused_with_its_file(tmp_path, changed, told, take):
    convert(saved(tmp_path / "source", LLAMA), tmp_path / "new", "int8")
    change_config(tmp_path / "new", quantization_config=config_in(tmp_path / "new")["quantization_config"] | changed)
    with pytest.raises(ValueError, match=r"new/config\.json: .*" + told):
        take(tmp_path / "new")


def test_tensors_that_are_not_what_config_json_says_are_told_all_at_once(tmp_path):
    convert(saved(tmp_path / "source", V2), tmp_path / "new", "mixed")
    path = tmp_path / "new" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.0.self_attn.value_up_proj.weight"]
    tensors["model.layers.1.self_attn.o_proj.weight"] = torch.zeros(72, 28)
    tensors["model.layers.2.self_attn.o_proj.weight"] = torch.zeros(5, 576, dtype=torch.uint8)  # 4 bits
    tensors["model.layers.2.mlp.gate.weight"] = torch.zeros(8, 72, dtype=torch.uint8)
    tensors[KV_B] = torch.zeros(48, 40)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError) as caught:
        load(tmp_path / "new")
    assert sorted(str(caught.value).splitlines()[1:]) == [
        "  missing: model.layers.0.self_attn.value_up_proj.weight",
        "  shape: model.layers.1.self_attn.o_proj.weight is [72, 28], config.json and its bits make it [5, 1088]",
        "  shape: model.layers.2.self_attn.o_proj.weight is [5, 576], config.json and its bits make it [5, 1088]",
        "  type: model.layers.1.self_attn.o_proj.weight is F32; only U8 can be read",
        "  type: model.layers.2.mlp.gate.weight is U8; only F32, BF16, F16, F8_E4M3 can be read",
        f"  unknown: {KV_B}",
    ]


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_file_cut_short_is_named(tmp_path, share):
    convert(saved(tmp_path / "source", LLAMA), tmp_path / "new", "int4")
    path = tmp_path / "new" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"model\.safetensors is no whole safetensors file"):
        load(tmp_path / "new")


class Killed(BaseException):
    """Stands for kill -9: nothing catches it, nothing is cleaned up."""


@pytest.mark.parametrize("moment", [1, 3])
def test_a_killed_conversion_goes_on_and_ends_in_the_same_bytes(tmp_path, source, monkeypatch, moment):
    module = convert.__globals__
    write, written = module["write_file"], []

    def dying(path, layouts, tensors):
        written.append(path.name)
        write(path, layouts, tensors)
        if len(written) == moment:
            raise Killed

    expected = convert(source, tmp_path / "whole", "mixed", max_shard_bytes=30_000)
    monkeypatch.setitem(module, "write_file", dying)
    with pytest.raises(Killed):
        convert(source, tmp_path / "new", "mixed", max_shard_bytes=30_000)
    errors = convert(source, tmp_path / "new", "mixed", max_shard_bytes=30_000)
    assert len(set(written)) == len(written) - 1, "only the file that was being written is written twice"
    assert files_in(tmp_path / "new") == files_in(tmp_path / "whole")
    assert {kind: error.relative for kind, error in errors.items()} == pytest.approx(
        {kind: error.relative for kind, error in expected.items()}, rel=1e-12
    )


def test_errors_are_those_of_each_kind_against_the_original(tmp_path):
    source = saved(tmp_path / "source", V2)
    errors = convert(source, tmp_path / "new", "mixed")
    convert(tmp_path / "new", tmp_path / "wide", "f32")
    before, after = tensors_in(source), tensors_in(tmp_path / "wide")
    kinds = {"attention", "absorbed", "dense", "experts", "shared experts", "head"}
    assert set(errors) == kinds
    for kind in kinds - {"attention"}:  # which widened has the absorbed ones as well
        names = [name for name in before if kind_of(name) == kind]
        names = names or [name for name in before if name.endswith("kv_b_proj.weight")]
        squared = sum(float((after[name] - before[name].float()).square().sum()) for name in names)
        size = sum(float(before[name].float().square().sum()) for name in names)
        assert errors[kind].relative == pytest.approx(math.sqrt(squared / size), rel=1e-4)


def test_what_is_no_finite_number_ends_a_conversion_by_name_and_leaves_nothing(tmp_path):
    source = saved(tmp_path / "source", V2)
    tensors = load_file(source / "model.safetensors")
    for name in (KV_B, "model.layers.1.mlp.experts.5.down_proj.weight", "model.norm.weight"):
        broken = tensors[name].clone()
        broken[..., 3] = math.nan
        save_file(tensors | {name: broken}, source / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=f"{name}.* finite number"):
            convert(source, tmp_path / "new", "mixed")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


V2_LITE = ModelConfig(
    vocab_size=102_400,
    model_dim=2048,
    num_layers=27,
    num_heads=16,
    query_rank=None,
    latent_dim=512,
    nope_dim=128,
    rope_dim=64,
    value_dim=128,
    dense_dim=10_944,
    expert_dim=1408,
    num_experts=64,
    num_active_experts=6,
    num_shared_experts=2,
    router="softmax",
    normalize_routing=False,
)


@pytest.mark.parametrize(("to", "expected"), [("int4", 4.73), ("mixed", 4.94), ("int8", 8.61)])
def test_bits_a_weight_of_v2_lite_are_those_the_documents_state(to, expected):
    with torch.device("meta"):
        network = Network(V2_LITE)
    panels = panel_shapes(network, chosen_bits(to, has_experts=True))
    total, embedding = count_parameters(V2_LITE).total, network.embedding_WD.numel()
    routers = sum(module.router_ED.numel() for module in network.modules() if hasattr(module, "router_ED"))
    norms = sum(tensor.numel() for tensor in network.parameters() if tensor.ndim == 1)
    num_bytes = sum(one.layout.num_bytes for one in panels.values()) + 2 * embedding + 4 * (routers + norms)
    assert round(8 * num_bytes / total, 2) == expected


def test_inspecting_tells_bits_and_bytes_by_kind(tmp_path):
    convert(saved(tmp_path / "source", V2), tmp_path / "new", "mixed")
    found = inspect(tmp_path / "new")
    held = load(tmp_path / "new").network.blocks[1].feed_forward
    experts = sum(one.packed.nbytes for kind in (held.gate_EFD, held.up_EFD, held.down_EDF) for one in kind)
    assert found.bytes_of["experts", "4-bit panels"] == 2 * experts
    assert {type_name for (kind, type_name) in found.bytes_of if kind == "absorbed"} == {"8-bit panels"}
    assert found.stored_bytes == sum(tensor.nbytes for tensor in tensors_in(tmp_path / "new").values())
    assert found.is_fast
    assert found.cache_bytes_per_token == found.latent_bytes_per_token == 2 * 3 * (40 + 6)
    assert not inspect(tmp_path / "source").is_fast


@pytest.mark.parametrize("to", ["mixed", "bf16-panels", "fp8", "gguf-q8_0"])
def test_the_verb_tells_what_a_conversion_costs_on_a_text(tmp_path, tokenizer, capsys, to):
    config = replace(LLAMA, vocab_size=tokenizer.vocab_size, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    save_model(tmp_path / "source", drawn(config), tokenizer=tokenizer)
    (tmp_path / "text.txt").write_text("고래는 바다에 산다. whales live in the sea 123. " * 20, encoding="utf-8")
    target = tmp_path / ("new.gguf" if to.startswith("gguf") else "new")
    command = ["convert", str(tmp_path / "source"), str(target), "--to", to, "--text", str(tmp_path / "text.txt")]
    assert main(command) == 0
    tokens, perplexity, divergence = capsys.readouterr().out.splitlines()[-3:]
    assert tokens.startswith("over ")
    before, after = (float(word) for word in perplexity.split() if word[0].isdigit())
    mean, p99 = (float(word) for word in divergence.split() if word[0].isdigit() and not word.endswith("th"))
    is_lossless = to == "bf16-panels"
    assert (before == after) == is_lossless
    assert (mean == p99 == 0) if is_lossless else (0 < mean < p99 < 1)


def test_a_text_that_can_not_be_measured_is_refused_before_converting(tmp_path, tokenizer, capsys):
    config = replace(LLAMA, vocab_size=tokenizer.vocab_size, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    save_model(tmp_path / "source", drawn(config))
    command = ["convert", str(tmp_path / "source"), str(tmp_path / "new"), "--text", str(tmp_path / "text.txt")]
    assert main(command) == 2
    assert "source has no tokenizer, which --text needs" in capsys.readouterr().err
    save_model(tmp_path / "source", drawn(config), tokenizer=tokenizer)
    assert main(command) == 2
    assert "text.txt" in capsys.readouterr().err
    (tmp_path / "text.txt").write_text("")
    assert main(command) == 2
    assert "text.txt has fewer than two tokens" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
