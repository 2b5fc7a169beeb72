import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from gorae.checkpoint import read_gguf, write_gguf
from gorae.checkpoint.gguf_config import from_metadata, llama3_factors, to_metadata
from gorae.checkpoint.gguf_names import ARCHITECTURES, entries

YARN = {
    "rope_type": "yarn",
    "factor": 40.0,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SHARED = {
    "num_hidden_layers": 3,
    "vocab_size": 37,
    "max_position_embeddings": 163840,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LATENT = {
    **SHARED,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "q_lora_rank": None,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 6,
    "v_head_dim": 32,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "attention_bias": False,
}
GROUPED = {
    **SHARED,
    "hidden_size": 160,
    "intermediate_size": 224,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
}
MODELS: dict[str, dict] = {
    "v2-lite": {**LATENT, "model_type": "deepseek_v2", "rope_scaling": YARN},
    "v2": {
        **LATENT,
        "model_type": "deepseek_v2",
        "q_lora_rank": 64,
        "n_group": 3,
        "topk_group": 2,
        "topk_method": "group_limited_greedy",
        "routed_scaling_factor": 16.0,
    },
    "v3": {
        **LATENT,
        "model_type": "deepseek_v3",
        "q_lora_rank": 32,
        "first_k_dense_replace": 2,
        "n_shared_experts": 1,
        "n_group": 2,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    },
    "qwen2": {**GROUPED, "model_type": "qwen2", "num_key_value_heads": 1, "rope_theta": 1e6},
    "qwen2-tied": {**GROUPED, "model_type": "qwen2", "tie_word_embeddings": True},
    "llama": {**GROUPED, "model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32},
    "llama-3": {**GROUPED, "model_type": "llama", "rope_scaling": LLAMA3, "rope_theta": 500000.0},
    "llama-with-bias": {**GROUPED, "model_type": "llama", "attention_bias": True},
}

each_model = pytest.mark.parametrize("published", MODELS.values(), ids=MODELS)
each_format = pytest.mark.parametrize("to", ["f16", "q8_0", "q4_0"])


def random_tensors(published: Mapping, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {entry.published: torch.randn(entry.shape, generator=generator) for entry in entries(published)}


def stored(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def values(path: Path) -> dict[str, np.ndarray]:
    """Every stored tensor, read and decoded by the package alone."""
    return {name: gguf.dequantize(tensor.data, tensor.tensor_type) for name, tensor in stored(path).items()}


def pack(path: Path, published: Mapping, tensors: Mapping[str, np.ndarray | tuple[np.ndarray, Kind]], **other) -> None:
    """A file written by the package alone; `other` replaces metadata, None removes it."""
    architecture = ARCHITECTURES[published["model_type"]]
    writer = gguf.GGUFWriter(path, architecture)
    metadata = to_metadata(published) | {f"{architecture}.{key}": value for key, value in other.items()}
    for key, value in metadata.items():
        if value is not None:
            kinds = {
                bool: gguf.GGUFValueType.BOOL,
                int: gguf.GGUFValueType.UINT32,
                float: gguf.GGUFValueType.FLOAT32,
                str: gguf.GGUFValueType.STRING,
            }
            writer.add_key_value(key, value, kinds[type(value)])
    for name, tensor in tensors.items():
        data, kind = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def blocks_of_q8_0(rows: np.ndarray) -> np.ndarray:
    """Each value rounded to the nearest of 255 steps of its block of 32; written from the format's definition."""
    found = np.empty_like(rows)
    for row, start in np.ndindex(rows.shape[0], rows.shape[1] // 32):
        block = rows[row, 32 * start : 32 * start + 32]
        step = np.float32(np.abs(block).max()) / np.float32(127)
        whole = np.sign(block) * np.floor(np.abs(block * (np.float32(1) / step)) + np.float32(0.5))
        found[row, 32 * start : 32 * start + 32] = np.float32(np.float16(step)) * whole
    return found


def decode_q8_0(raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
    found = []
    for start in range(0, len(raw), 34):
        step = np.float32(np.frombuffer(raw[start : start + 2], "<f2")[0])
        found += [step * np.float32(byte - 256 if byte > 127 else byte) for byte in raw[start + 2 : start + 34]]
    return np.array(found, dtype=np.float32).reshape(shape)


def decode_q4_0(raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Low halves of the 16 bytes are the first 16 values of a block, high halves the others; 8 stands for zero."""
    found = []
    for start in range(0, len(raw), 18):
        step = np.float32(np.frombuffer(raw[start : start + 2], "<f2")[0])
        halves = raw[start + 2 : start + 18]
        found += [step * np.float32((byte & 15) - 8) for byte in halves]
        found += [step * np.float32((byte >> 4) - 8) for byte in halves]
    return np.array(found, dtype=np.float32).reshape(shape)


@each_format
@each_model
def test_what_was_written_is_read_within_the_steps_of_its_type(tmp_path, published, to):
    tensors = random_tensors(published)
    write_gguf(tmp_path / "model.gguf", published, tensors, to=to)
    read = read_gguf(tmp_path / "model.gguf")
    assert list(read.tensors) == list(tensors)
    for name, tensor in tensors.items():
        found = read.tensors[name]
        assert (found.dtype, found.shape, read.tensors.layout(name).shape) == (
            torch.float32,
            tensor.shape,
            tensor.shape,
        )
        # half a step: of float16 below 8, of 1/127 of a block's largest (below 5), of 1/8 of it; Q4_0 cuts at +7 steps
        within = {"f16": 2**-9, "q8_0": 5 / 127 / 2 * 1.01, "q4_0": 5 / 8 * 1.01}[to]
        assert (found - tensor).abs().max() <= within, name
        if tensor.ndim == 1 or name.endswith("mlp.gate.weight"):
            assert torch.equal(found, tensor), f"{name} stays float32"


@each_model
def test_what_float16_holds_comes_back_to_the_last_bit(tmp_path, published):
    tensors = {name: tensor.half().float() for name, tensor in random_tensors(published).items()}
    write_gguf(tmp_path / "model.gguf", published, tensors)
    read = read_gguf(tmp_path / "model.gguf").tensors
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


@each_model
def test_config_comes_back_key_by_key(tmp_path, published):
    write_gguf(tmp_path / "model.gguf", published, random_tensors(published))
    read = read_gguf(tmp_path / "model.gguf").published
    assert {key: read.get(key) for key in published} == published


@each_model
def test_names_are_those_the_gguf_package_gives_to_the_published_ones(published):
    architecture = ARCHITECTURES[published["model_type"]]
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, published["num_hidden_layers"])
    for entry in entries(published):
        theirs = entry.published.replace("e_score_correction_bias", "e_score_correction.bias")
        theirs = theirs if entry.expert is None else theirs.replace(f".experts.{entry.expert}.", ".experts.")
        assert names.get_name(theirs, try_suffixes=(".weight", ".bias")) == entry.name


def block(layer: int, attention: str, feed_forward: str, *, experts: int = 0) -> set[str]:
    suffixes = {"input_layernorm.weight", "post_attention_layernorm.weight"}
    suffixes |= {f"self_attn.{name}" for name in attention.split()} | {f"mlp.{name}" for name in feed_forward.split()}
    gated = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")
    suffixes |= {f"mlp.experts.{expert}.{name}" for expert in range(experts) for name in gated}
    return {f"model.layers.{layer}.{suffix}" for suffix in suffixes}


LATENT_NAMES = "kv_a_proj_with_mqa.weight kv_a_layernorm.weight kv_b_proj.weight o_proj.weight "
LORA_NAMES = LATENT_NAMES + "q_a_proj.weight q_a_layernorm.weight q_b_proj.weight"
DENSE_NAMES = "gate_proj.weight up_proj.weight down_proj.weight"
SHARED_NAMES = (
    "gate.weight shared_experts.gate_proj.weight shared_experts.up_proj.weight shared_experts.down_proj.weight "
)
GROUPED_NAMES = "q_proj.weight k_proj.weight v_proj.weight o_proj.weight "
BIAS_NAMES = GROUPED_NAMES + "q_proj.bias k_proj.bias v_proj.bias"
ENDS = {"model.embed_tokens.weight", "model.norm.weight"}
HEAD = {"lm_head.weight"}


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (
            "v2-lite",
            ENDS
            | HEAD
            | block(0, LATENT_NAMES + "q_proj.weight", DENSE_NAMES)
            | block(1, LATENT_NAMES + "q_proj.weight", SHARED_NAMES, experts=6)
            | block(2, LATENT_NAMES + "q_proj.weight", SHARED_NAMES, experts=6),
        ),
        (
            "v2",
            ENDS
            | HEAD
            | block(0, LORA_NAMES, DENSE_NAMES)
            | block(1, LORA_NAMES, SHARED_NAMES, experts=6)
            | block(2, LORA_NAMES, SHARED_NAMES, experts=6),
        ),
        (
            "v3",
            ENDS
            | HEAD
            | block(0, LORA_NAMES, DENSE_NAMES)
            | block(1, LORA_NAMES, DENSE_NAMES)
            | block(2, LORA_NAMES, SHARED_NAMES + "gate.e_score_correction_bias", experts=6),
        ),
        ("qwen2", ENDS | HEAD | {name for layer in range(3) for name in block(layer, BIAS_NAMES, DENSE_NAMES)}),
        ("qwen2-tied", ENDS | {name for layer in range(3) for name in block(layer, BIAS_NAMES, DENSE_NAMES)}),
        ("llama", ENDS | HEAD | {name for layer in range(3) for name in block(layer, GROUPED_NAMES, DENSE_NAMES)}),
        (
            "llama-with-bias",
            ENDS
            | HEAD
            | {name for layer in range(3) for name in block(layer, BIAS_NAMES + " o_proj.bias", DENSE_NAMES)},
        ),
    ],
)
def test_every_published_name_is_there_once(model, names):
    given = [entry.published for entry in entries(MODELS[model])]
    assert len(given) == len(set(given))
    assert set(given) == names


def test_query_and_key_rows_of_a_llama_lie_as_adjacent_pairs(tmp_path):
    published = MODELS["llama"]
    tensors = random_tensors(published)
    write_gguf(tmp_path / "model.gguf", published, tensors)
    held = values(tmp_path / "model.gguf")
    for theirs, ours, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
        rows = tensors[f"model.layers.1.self_attn.{theirs}.weight"].half().float().numpy()
        for head, pair in np.ndindex(heads, 16):
            first = 32 * head
            there = held[f"blk.1.{ours}.weight"]
            assert np.array_equal(there[first + 2 * pair], rows[first + pair])
            assert np.array_equal(there[first + 2 * pair + 1], rows[first + pair + 16])


def test_rows_of_a_qwen2_lie_as_published(tmp_path):
    published = MODELS["qwen2"]
    tensors = random_tensors(published)
    write_gguf(tmp_path / "model.gguf", published, tensors)
    rows = tensors["model.layers.1.self_attn.q_proj.weight"].half().float().numpy()
    assert np.array_equal(values(tmp_path / "model.gguf")["blk.1.attn_q.weight"], rows)


def test_the_latent_is_split_into_transposed_keys_and_values(tmp_path):
    published = MODELS["v3"]
    tensors = random_tensors(published)
    write_gguf(tmp_path / "model.gguf", published, tensors)
    held = values(tmp_path / "model.gguf")
    rows = tensors["model.layers.2.self_attn.kv_b_proj.weight"].half().float().numpy()
    for head in range(3):
        assert np.array_equal(held["blk.2.attn_k_b.weight"][head], rows[64 * head : 64 * head + 32].T)
        assert np.array_equal(held["blk.2.attn_v_b.weight"][head], rows[64 * head + 32 : 64 * head + 64])


def test_experts_are_stacked_in_their_order(tmp_path):
    published = MODELS["v3"]
    tensors = random_tensors(published)
    write_gguf(tmp_path / "model.gguf", published, tensors)
    stack = values(tmp_path / "model.gguf")["blk.2.ffn_down_exps.weight"]
    assert stack.shape == (6, 96, 32)
    for expert in range(6):
        given = tensors[f"model.layers.2.mlp.experts.{expert}.down_proj.weight"]
        assert np.array_equal(stack[expert], given.half().float().numpy())


def test_a_file_of_2024_with_whole_head_widths_and_one_latent_tensor_is_read(tmp_path):
    published = MODELS["v2-lite"]
    tensors = random_tensors(published)
    write_gguf(tmp_path / "new.gguf", published, tensors)
    held = {name: tensor for name, tensor in values(tmp_path / "new.gguf").items() if ".attn_k_b." not in name}
    for layer in range(3):
        del held[f"blk.{layer}.attn_v_b.weight"]
        held[f"blk.{layer}.attn_kv_b.weight"] = tensors[f"model.layers.{layer}.self_attn.kv_b_proj.weight"].numpy()
    # such files have neither groups nor a gating function
    left_out = ("attention.key_length_mla", "attention.value_length_mla", "expert_gating_func", "expert_weights_norm")
    left_out += ("expert_group_count", "expert_group_used_count")
    widths = {"attention.key_length": 38, "attention.value_length": 32, "attention.head_count_kv": 3}
    pack(tmp_path / "old.gguf", published, held, **dict.fromkeys(left_out), **widths)
    old, new = read_gguf(tmp_path / "old.gguf"), read_gguf(tmp_path / "new.gguf")
    assert old.published == new.published
    for name in tensors:
        expected = tensors[name] if "kv_b_proj" in name else new.tensors[name]
        assert torch.equal(old.tensors[name], expected), name


def test_gate_and_up_rows_of_experts_in_one_tensor_are_taken_apart(tmp_path):
    published = MODELS["v3"]
    write_gguf(tmp_path / "apart.gguf", published, random_tensors(published))
    held = values(tmp_path / "apart.gguf")
    gates, ups = held.pop("blk.2.ffn_gate_exps.weight"), held.pop("blk.2.ffn_up_exps.weight")
    held["blk.2.ffn_gate_up_exps.weight"] = np.concatenate([gates, ups], axis=1)
    pack(tmp_path / "fused.gguf", published, held)
    apart, fused = read_gguf(tmp_path / "apart.gguf").tensors, read_gguf(tmp_path / "fused.gguf").tensors
    assert all(torch.equal(fused[name], apart[name]) for name in apart)


def test_blocks_of_mtp_modules_in_a_file_are_left_out(tmp_path):
    published = MODELS["v3"]
    write_gguf(tmp_path / "model.gguf", published, random_tensors(published))
    held = values(tmp_path / "model.gguf") | {"blk.3.nextn.enorm.weight": np.ones(96, np.float32)}
    pack(tmp_path / "mtp.gguf", published, held, block_count=4, nextn_predict_layers=1)
    assert read_gguf(tmp_path / "mtp.gguf").published["num_hidden_layers"] == 3


WIDE = {
    **GROUPED,
    "model_type": "qwen2",
    "num_hidden_layers": 1,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
SCALES |= {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2)}


def random_blocks(name: str, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    elements, num_bytes = gguf.GGML_QUANT_SIZES[Kind[name]]
    blocks = generator.integers(0, 256, (shape[0], shape[1] // elements, num_bytes), dtype=np.uint8)
    for place in SCALES[name]:
        scales = generator.normal(size=blocks.shape[:2]).astype(np.float16)
        blocks[..., place : place + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(shape[0], -1)


def wide_file(path: Path, up: tuple[np.ndarray, Kind]) -> None:
    held = {entry.name: np.zeros(entry.shape, np.float32) for entry in entries(WIDE)}
    pack(path, WIDE, held | {"blk.0.ffn_up.weight": up})


@pytest.mark.parametrize("name", SCALES)
def test_quantised_values_are_those_of_the_packages_decoder(tmp_path, name):
    blocks = random_blocks(name, (512, 256))
    wide_file(tmp_path / "model.gguf", (blocks, Kind[name]))
    found = read_gguf(tmp_path / "model.gguf").tensors["model.layers.0.mlp.up_proj.weight"]
    assert np.array_equal(found.numpy(), gguf.dequantize(blocks, Kind[name]))


@pytest.mark.parametrize(("name", "decode"), [("Q8_0", decode_q8_0), ("Q4_0", decode_q4_0)])
def test_simple_quantised_values_are_those_of_the_formats_definition(tmp_path, name, decode):
    blocks = random_blocks(name, (512, 256))
    wide_file(tmp_path / "model.gguf", (blocks, Kind[name]))
    found = read_gguf(tmp_path / "model.gguf").tensors["model.layers.0.mlp.up_proj.weight"]
    assert np.array_equal(found.numpy(), decode(blocks.tobytes(), (512, 256)))


def test_bfloat16_is_widened(tmp_path):
    given = torch.randn(512, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    wide_file(tmp_path / "model.gguf", (given.view(torch.uint8).numpy(), Kind.BF16))
    found = read_gguf(tmp_path / "model.gguf").tensors["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(found, given.float())


def test_values_written_as_q8_0_are_the_nearest_steps(tmp_path):
    published = MODELS["qwen2"]
    tensors = random_tensors(published)
    write_gguf(tmp_path / "model.gguf", published, tensors, to="q8_0")
    name = "model.layers.1.mlp.up_proj.weight"
    assert np.array_equal(
        read_gguf(tmp_path / "model.gguf").tensors[name].numpy(), blocks_of_q8_0(tensors[name].numpy())
    )


def test_each_tensor_has_the_type_that_llama_cpp_expects(tmp_path):
    published = {**MODELS["v3"], "qk_nope_head_dim": 33}
    write_gguf(tmp_path / "model.gguf", published, random_tensors(published), to="q4_0")
    kinds = {name: tensor.tensor_type for name, tensor in stored(tmp_path / "model.gguf").items()}
    for name in ("output_norm.weight", "blk.2.ffn_gate_inp.weight", "blk.2.exp_probs_b.bias", "blk.0.attn_norm.weight"):
        assert kinds[name] == Kind.F32
    assert kinds["output.weight"] == Kind.Q8_0
    assert (
        kinds["blk.2.ffn_up_exps.weight"] == kinds["token_embd.weight"] == kinds["blk.2.attn_v_b.weight"] == Kind.Q4_0
    )
    assert kinds["blk.2.attn_k_b.weight"] == Kind.F16, "33 is no multiple of 32"


def test_factors_of_a_foreign_llama_3_name_its_published_rule(tmp_path):
    published = MODELS["llama-3"]
    write_gguf(tmp_path / "ours.gguf", published, random_tensors(published))
    plain = {**published, "rope_scaling": None}
    pack(tmp_path / "foreign.gguf", plain, values(tmp_path / "ours.gguf"))
    assert read_gguf(tmp_path / "foreign.gguf").published["rope_scaling"] == LLAMA3
    other = llama3_factors(published, {**LLAMA3, "high_freq_factor": 3.0})
    held = values(tmp_path / "ours.gguf") | {"rope_freqs.weight": np.array(other, np.float32)}
    pack(tmp_path / "other.gguf", plain, held)
    with pytest.raises(ValueError, match=r"rope_freqs\.weight follows no rule"):
        read_gguf(tmp_path / "other.gguf")


@pytest.mark.parametrize(("layers", "experts", "groups"), [(60, 160, (8, 3)), (61, 256, (8, 4)), (61, 160, (1, 1))])
def test_groups_that_files_of_2024_do_not_say_are_those_of_the_published_models(layers, experts, groups):
    published = {**MODELS["v2"], "num_hidden_layers": layers, "n_routed_experts": experts}
    metadata = {key: value for key, value in to_metadata(published).items() if "expert_group" not in key}
    shapes = {entry.name: entry.shape for entry in entries(published) if entry.expert is None}
    shapes |= {f"blk.{layer}.ffn_up_exps.weight": (experts, 32, 96) for layer in range(1, layers)}
    read = from_metadata({"general.architecture": "deepseek2", **metadata}, shapes)
    assert (read["n_group"], read["topk_group"]) == groups


def test_mtp_modules_and_copies_of_tied_heads_are_not_written(tmp_path):
    published = MODELS["qwen2-tied"]
    tensors = random_tensors(published)
    extra = {"lm_head.weight": tensors["model.embed_tokens.weight"], "model.layers.3.enorm.weight": torch.ones(160)}
    write_gguf(tmp_path / "model.gguf", published, tensors | extra)
    assert list(read_gguf(tmp_path / "model.gguf").tensors) == list(tensors)


def test_one_tensor_at_a_time_is_asked_for(tmp_path):
    published = MODELS["v3"]
    tensors = random_tensors(published)
    asked = []

    class Watched(dict):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

    write_gguf(tmp_path / "model.gguf", published, Watched(tensors))
    halves = [name for name in tensors if "kv_b_proj" in name]  # asked for once as keys and once as values
    assert sorted(asked) == sorted([*tensors, *halves])


def spoil(tensors: dict, name: str, value) -> dict:
    return {**tensors, name: value} if value is not None else {key: tensors[key] for key in tensors if key != name}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.norm.weight", None, r"missing: model\.norm\.weight"),
        ("model.extra.weight", torch.ones(3), r"unknown: model\.extra\.weight"),
        ("model.norm.weight", torch.ones(3), r"model\.norm\.weight is \[3\], config\.json makes it \[160\]"),
        ("model.norm.weight", torch.full((160,), torch.nan), r"model\.norm\.weight has a value that is no finite"),
        ("lm_head.weight", torch.full((37, 160), 65600.0), r"lm_head\.weight has a value .* in F16"),
    ],
)
def test_tensors_that_can_not_be_written_leave_the_old_file(tmp_path, name, value, message):
    published, path = MODELS["llama"], tmp_path / "model.gguf"
    tensors = random_tensors(published)
    write_gguf(path, published, tensors)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        write_gguf(path, published, spoil(tensors, name, value))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize("to", ["q8_0", "q4_0"])
def test_blocks_of_tiny_and_of_wide_values_are_quantised_without_overflow(tmp_path, to):
    published = MODELS["qwen2"]
    tensors = random_tensors(published)
    tensors["model.layers.0.mlp.up_proj.weight"][:, ::2] = 1e-42
    tensors["model.layers.0.mlp.up_proj.weight"][::2] = 1e-40
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1e4
    write_gguf(tmp_path / "model.gguf", published, tensors, to=to)
    read = read_gguf(tmp_path / "model.gguf").tensors
    assert not read["model.layers.0.mlp.up_proj.weight"][::2].any()
    assert read["model.layers.1.mlp.up_proj.weight"].isfinite().all()


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        ("llama", {"model_type": "mistral"}, "model_type='mistral'"),
        ("v3", {"rope_scaling": {**YARN, "mscale": 1.0}}, "mscale=1.0 differs from mscale_all_dim=0.707"),
        ("v3", {"rope_scaling": {**YARN, "mscale": None, "mscale_all_dim": None}}, "whose YaRN always has one there"),
        ("qwen2", {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}}, "whose YaRN never has one there"),
        ("qwen2", {"rope_scaling": LLAMA3}, "rope type 'llama3'"),
        ("llama", {"mlp_bias": True}, "mlp_bias=True"),
        ("v3", {"moe_layer_freq": 2}, "moe_layer_freq=2"),
        ("v3", {"scoring_func": "softmax"}, "scoring_func='softmax'"),
        ("v2", {"topk_method": "greedy"}, "topk_method='greedy'"),
        ("v2", {"kv_lora_rank": None, "vocab_size": None}, "lacks vocab_size, kv_lora_rank"),
    ],
)
def test_a_config_that_gguf_can_not_hold_is_refused(tmp_path, model, change, message):
    published = {**MODELS[model], **change}
    with pytest.raises(ValueError, match=message):
        write_gguf(tmp_path / "model.gguf", published, {})
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="f16, q8_0, q4_0"):
        write_gguf(tmp_path / "model.gguf", MODELS["llama"], {}, to="q6_k")


def test_an_expert_costs_the_memory_of_an_expert(tmp_path):
    published = {**MODELS["v3"], "n_routed_experts": 32, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 256}
    tensors = random_tensors(published)
    stack_bytes, expert_bytes = 32 * 256 * 96 * 4, 256 * 96 * 4

    def peak_bytes(act) -> int:
        tracemalloc.start()
        try:
            act()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    path = tmp_path / "model.gguf"
    peak_bytes(lambda: write_gguf(path, published, tensors, to="q8_0"))  # once before, for what is imported late
    assert peak_bytes(lambda: write_gguf(path, published, tensors, to="q8_0")) < stack_bytes / 2
    assert peak_bytes(lambda: read_gguf(path)) < stack_bytes / 2
    read = read_gguf(path).tensors
    assert peak_bytes(lambda: read["model.layers.2.mlp.experts.31.up_proj.weight"]) < 8 * expert_bytes
