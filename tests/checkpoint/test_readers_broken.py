"""Broken and hostile JSON of a checkpoint folder: nothing but a ValueError that names the file comes out, in bounds."""

import json
import shutil
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers, processors

from gorae.checkpoint.shards import read_published
from gorae.config import ModelConfig, from_published
from gorae.text import BOS, Message, Tokenizer

FUZZED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
YARN = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 1.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SHARED = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "bos_token_id": 0,
    "eos_token_id": [1, 2],
}
LATENT = {
    **SHARED,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "rope_scaling": YARN,
}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
PUBLISHED = {
    "deepseek_v3": {**LATENT, "norm_topk_prob": True, "quantization_config": FP8, "num_nextn_predict_layers": 1},
    "deepseek_v2": {**LATENT, "topk_method": "group_limited_greedy", "scoring_func": "softmax"},
    "qwen2": {**SHARED, "use_sliding_window": False, "layer_types": ["full_attention"] * 2, "head_dim": 8},
    "llama": {**SHARED, "rope_scaling": LLAMA3, "attention_bias": True, "mlp_bias": False},
}

numbers = st.sampled_from(
    [0, -1, 1, 2, 3, 2**16, 2**31, 2**63, 10**30, 10**400, 0.5, 1e308, float("inf"), float("nan")]
)
scalars = (
    st.none() | st.booleans() | numbers | st.text(max_size=8) | st.sampled_from(["yarn", "fp8", "llama", "\ud800"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
# Which place of a document, counted depth first and modulo how many there are, what is done there, and with what.
edits = st.lists(
    st.tuples(st.integers(0, 10_000), st.sampled_from(["set", "drop", "rename", "double"]), values),
    min_size=1,
    max_size=4,
)
cuts = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4), st.integers(0, 8)), min_size=1, max_size=3)


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every container of a document with a key that it has; of a vocabulary the first few say enough."""
    if not isinstance(document, dict | list):
        return []
    keys = list(document if isinstance(document, dict) else range(len(document)))
    keys = keys[:40] if len(keys) < 100 else keys[:8]
    return [place for key in keys for place in [(document, key), *places(document[key])]]


def mutated(document: Any, changes: list[tuple[int, str, Any]]) -> Any:
    document = json.loads(json.dumps(document))
    for number, kind, value in changes:
        found = places(document)
        if not found:
            break
        holder, key = found[number % len(found)]
        if kind == "set":
            holder[key] = value
        elif kind == "double" and isinstance(holder, list):
            holder.append(holder[key])
        elif kind == "rename" and isinstance(holder, dict):
            holder[str(value)[:20]] = holder.pop(key)
        else:
            del holder[key]
    return document


def cut(content: bytes, changes: list[tuple[float, bytes, int]]) -> bytes:
    for share, written, dropped in changes:
        place = int(share * len(content))
        content = content[:place] + written + content[place + dropped :]
    return content


def bounded(read, folder: Path, file: str) -> Any:
    """What `read` returns, None where it raises a ValueError, which names the file; memory stays small."""
    found, complaint = None, file
    tracemalloc.start()
    try:
        found = read(folder)
    except ValueError as error:
        complaint = str(error)
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert file in complaint
    assert peak_bytes < 32 << 20, "files of some kB need no more"
    return found


def read_config(folder: Path) -> ModelConfig:
    published = read_published(folder)
    try:
        return from_published(published)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_whole_configs_are_read(name):
    assert from_published({"model_type": name, **PUBLISHED[name]}).stop_ids == (2,)


@pytest.mark.parametrize("name", PUBLISHED)
@FUZZED
@given(changes=edits)
@example(changes=[])
def test_a_changed_config_is_read_whole_or_refused_by_name(tmp_path, name, changes):
    document = mutated({"model_type": name, **PUBLISHED[name]}, changes)
    (tmp_path / "config.json").write_text(json.dumps(document))
    config = bounded(read_config, tmp_path, "config.json")
    assert config is None or isinstance(config, ModelConfig)


@FUZZED
@given(st.binary(max_size=60) | cuts.map(lambda changes: cut(json.dumps(PUBLISHED["llama"]).encode(), changes)))
@example(b"[" * 100_000)
@example(b'{"model_type": "llama", "model_type": "qwen2"}')
@example(b"9" * 5000)
def test_any_bytes_for_a_config_are_read_or_refused_by_name(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    bounded(read_config, tmp_path, "config.json")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_bytes(content)
    bounded(read_published, tmp_path, "generation_config.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer) -> Path:
    """A folder with a tokenizer that has every kind of part."""
    folder = tmp_path_factory.mktemp("whole")
    tokenizer.save(folder)
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("\u00a0", " ")])
    cut = pre_tokenizers.Split(tokenizers.Regex(r"\p{N}{1,3}| ?\p{L}+"), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    library.post_processor = processors.TemplateProcessing(f"{BOS} $A", special_tokens=[(BOS, 0)])
    library.enable_padding(length=16)
    library.enable_truncation(64)
    library.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")
    return folder


def read_tokenizer(folder: Path) -> None:
    """Read it, and where that goes well use it."""
    tokenizer = Tokenizer.load(folder)
    tokenizer.decode([*tokenizer.text_start_ids, *tokenizer.encode("고래 12 <think>", parse_special=True)])
    with suppress(ValueError):  # a template may refuse what it is given
        tokenizer.decode(tokenizer.encode_prompt([Message("user", "고래 12?")]).ids)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@FUZZED
@given(changes=edits)
@example(changes=[])
def test_a_changed_tokenizer_is_read_whole_or_refused_by_name(tmp_path, whole, name, changes):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        document = json.loads((whole / file).read_bytes())
        (tmp_path / file).write_text(json.dumps(mutated(document, changes if file == name else [])))
    bounded(read_tokenizer, tmp_path, name.partition("_")[0])


# The library panics at these, ends the process or fills the memory, unless it is kept from it.
@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "x" * 1000}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {"truncation": {"max_length": 2, "stride": 5, "strategy": "LongestFirst", "direction": "Right"}},
        {"model": {"type": "BPE", "continuing_subword_prefix": "#" * 30, "vocab": {"a": 0}, "merges": [["a", "a"]]}},
        {
            "padding": {
                "strategy": {"Fixed": 2**40},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            }
        },
    ],
    ids=lambda part: next(iter(part)),
)
def test_a_part_that_the_library_dies_of_is_refused_or_left_out(tmp_path, whole, part):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | part))
    bounded(read_tokenizer, tmp_path, "tokenizer.json")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
@FUZZED
@given(content=st.binary(max_size=60) | cuts)
@example(content=b"[" * 100_000)
@example(content=b"{{ (" * 5_000)
@example(content=b"{% if 1 %}" * 5_000)
def test_any_bytes_for_a_tokenizer_are_read_or_refused_by_name(tmp_path, whole, name, content):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else cut((whole / name).read_bytes(), content))
    bounded(read_tokenizer, tmp_path, name.partition(".")[0])
