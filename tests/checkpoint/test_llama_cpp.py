"""llama.cpp as the judge of GGUF files: it reads what Gorae wrote and gives texts the log-probabilities Gorae gives.

llama.cpp rounds the activations that meet a float16 matrix to float16, and those that meet a quantised one to 8 bits in
blocks of 32. So each file is also read with its matrices widened to float32, where nothing is rounded on the way: what
is left there is the order of sums. docs/checkpoints.md says what it can not judge.
"""

import json
import random
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from gorae.checkpoint import convert, convert_to_gguf, load, save_model, write_gguf
from gorae.checkpoint.gguf_names import entries
from gorae.checkpoint.gguf_tokenizer import _CUTS
from gorae.config import ModelConfig, RopeScaling
from gorae.model import Network
from gorae.text import Tokenizer

from .test_bounds import V2, write_heavy_tailed

pytestmark = pytest.mark.slow

# Log-probabilities of these networks have a deviation near 2, and float16 has 11 bits: one rounding moves them by some
# 2 / 2**11 = 1e-3. Measured over 80 shapes of 2 to 4 layers: root mean square 0.7e-3 to 2.9e-3, the largest of 18,000
# values 0.023; of the 27 layers of "lite": 3.7e-3 and 0.019. The margin is 2.
IN_FLOAT16 = 0.05
# The promise made for transformers; the largest difference over the same shapes was 6.5e-5.
IN_FLOAT32 = 1e-4
# Root mean square. An activation has an error of a step over root 12, of which the largest in its block is 127: 0.5% or
# more, 25 times that of float16. Measured: 0.028 to 0.034.
QUANTISED = 0.08

SEEDS = range(8)
NUM_TOKENS = 60
VOCAB_SIZE = 300


@pytest.fixture(scope="module")
def llama_cpp() -> ModuleType:
    if find_spec("llama_cpp") is None:
        pytest.fail("llama.cpp is not installed; `make test-slow` compiles it and runs this test", pytrace=False)
    return import_module("llama_cpp")


def random_rope(draw: random.Random, architecture: str) -> RopeScaling | None:
    """As llama.cpp understands it: DeepSeek's YaRN has mscale_all_dim, that of Qwen2 and Llama has not."""
    is_latent = architecture.startswith("deepseek")
    kind = draw.choice([None, "yarn", "yarn"] if is_latent else [None, "yarn", "llama3"])
    if kind is None or (kind == "llama3" and architecture == "qwen2"):
        return None
    factor, original = draw.choice([2.0, 4.0, 40.0]), draw.choice([16, 24, 1024])
    if kind == "llama3":
        return RopeScaling(kind, factor, original, fast_turns=draw.choice([2.0, 4.0]), slow_turns=1.0)
    mscale = draw.choice([0.707, 1.0]) if is_latent else None
    fast, slow = draw.choice([(32.0, 1.0), (4.0, 0.5)])
    return RopeScaling(kind, factor, original, fast, slow, mscale=mscale, mscale_all_dim=mscale)


def random_config(architecture: str, seed: int) -> ModelConfig:
    draw = random.Random(f"{architecture}/{seed}")
    shared: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "num_layers": draw.randint(2, 4),
        "dense_dim": draw.randint(60, 240),
        "norm_eps": draw.choice([1e-6, 1e-5]),
        "rope_theta": draw.choice([100.0, 1e4, 5e5]),
        "rope_scaling": random_rope(draw, architecture),
    }
    if architecture in ("qwen2", "llama"):
        width, key_heads = 2 * draw.randint(4, 20), draw.randint(1, 3)
        heads = key_heads * draw.randint(1, 4)
        is_qwen = architecture == "qwen2"
        shared |= {
            "model_dim": heads * width if is_qwen else 4 * draw.randint(10, 40),
            "tie_embeddings": draw.random() < 0.4,
            "attention_bias": is_qwen or seed % 2 == 0,
            "output_bias": not is_qwen and seed % 2 == 0,
        }
        return plain(
            **shared,
            num_heads=heads,
            num_key_heads=key_heads,
            rope_dim=width,
            value_dim=width,
        )
    num_groups, group_size = draw.choice([1, 2, 4]), draw.randint(2, 4)
    active_groups = draw.randint(1, max(1, num_groups - 1))
    shared |= {
        "model_dim": 4 * draw.randint(16, 50),
        "num_heads": draw.randint(1, 5),
        "query_rank": draw.choice([None, draw.randint(20, 80)]),
        "latent_dim": draw.randint(20, 80),
        "nope_dim": draw.randint(5, 40),
        "rope_dim": 2 * draw.randint(2, 16),
        "value_dim": draw.randint(5, 40),
        "expert_dim": draw.randint(20, 90),
        "num_experts": num_groups * group_size,
        "num_active_experts": draw.randint(1, min(6, active_groups * group_size)),
        "num_shared_experts": draw.randint(1, 3),
        "num_dense_layers": draw.randint(0, 2),
        "routing_scale": draw.choice([1.0, 2.5]),
    }
    if architecture == "deepseek_v2":
        return ModelConfig(**shared, router="softmax", normalize_routing=False)
    groups = {"num_expert_groups": num_groups, "num_active_groups": active_groups}
    return ModelConfig(**shared, **groups, normalize_routing=draw.random() < 0.7)


def plain(**values: Any) -> ModelConfig:
    """A dense network with plain heads."""
    none = {"expert_dim": 0, "num_experts": 0, "num_active_experts": 0, "num_dense_layers": values["num_layers"]}
    return ModelConfig(**values, **none, query_rank=None, latent_dim=None, nope_dim=0, rope_interleaved=False)


LITE = replace(  # llama.cpp tells V2-Lite by its 27 layers
    random_config("deepseek_v2", 0),
    num_layers=27,
    query_rank=None,
    num_experts=8,
    num_active_experts=3,
    num_shared_experts=2,
    num_dense_layers=1,
    rope_scaling=RopeScaling("yarn", 40.0, 4096, mscale=0.707, mscale_all_dim=0.707),
)
# Rows of whole blocks, so that every matrix is quantised; every expert is active, since the rounding of activations
# would now and then choose another.
BLOCKS = {"num_layers": 3, "vocab_size": VOCAB_SIZE, "model_dim": 128, "num_heads": 4, "dense_dim": 192}
QUANTISABLE = {
    "llama": plain(**BLOCKS, num_key_heads=2, rope_dim=32, value_dim=32),
    "qwen2": plain(**BLOCKS, num_key_heads=2, rope_dim=32, value_dim=32, attention_bias=True),
    "deepseek_v3": ModelConfig(
        **BLOCKS,
        query_rank=64,
        latent_dim=64,
        nope_dim=32,
        rope_dim=16,
        value_dim=32,
        expert_dim=64,
        num_experts=4,
        num_active_experts=4,
    ),
}


def drawn(config: ModelConfig) -> Network:
    """Weights that keep activations near 1 and make log-probabilities with a deviation near 2."""
    generator = torch.Generator().manual_seed(0)
    network = Network(replace(config, init_std=config.model_dim**-0.5), seed=1)
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 1:
            tensor.copy_((0.0 if "bias" in name else 1.0) + 0.3 * torch.randn(tensor.shape, generator=generator))
        elif name == "embedding_WD" and not config.tie_embeddings:
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        elif name in ("embedding_WD", "head_WD"):
            tensor.mul_(2)
    return network


def written(folder: Path, config: ModelConfig, tokenizer: Tokenizer, to: str) -> Path:
    config = replace(config, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    save_model(folder / "saved", drawn(config), tokenizer=tokenizer)
    convert_to_gguf(folder / "saved", folder / "model.gguf", to)
    return folder / "model.gguf"


def widened(path: Path) -> Path:
    """The file with every tensor in float32, written by the package `gguf` alone."""
    read = gguf.GGUFReader(path)
    target = path.with_name("widened.gguf")
    writer = gguf.GGUFWriter(target, read.fields["general.architecture"].contents())
    for key, field in read.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            element = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type=element)
    for tensor in read.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1].tolist())
        writer.add_tensor(tensor.name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def judged(llama_cpp: ModuleType, path: Path, config: ModelConfig, ids: list[int], **other: Any) -> torch.Tensor:
    """llama.cpp's log-probabilities after every token, its cache in float32 and its attention unfused.

    YaRN's two turns are told here: the file has them, but for these architectures llama.cpp takes its defaults.
    """
    turns = config.rope_scaling or RopeScaling("yarn", 1.0, 1)
    judge = llama_cpp.Llama(
        str(path),
        n_ctx=128,
        logits_all=True,
        n_threads=1,
        n_threads_batch=1,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        flash_attn=False,
        yarn_beta_fast=turns.fast_turns,
        yarn_beta_slow=turns.slow_turns,
        verbose=False,
        **other,
    )
    try:
        judge.eval(ids)
        return torch.from_numpy(judge.scores[: len(ids)].copy()).log_softmax(-1)
    finally:
        judge.close()


def some_ids(seed: int = 0) -> list[int]:
    return torch.randint(VOCAB_SIZE, (NUM_TOKENS,), generator=torch.Generator().manual_seed(seed)).tolist()


ARCHITECTURES = ("qwen2", "llama", "deepseek_v2", "deepseek_v3")
CASES = {f"{name}-{seed}": random_config(name, seed) for name in ARCHITECTURES for seed in SEEDS}


@pytest.mark.parametrize("config", [*CASES.values(), LITE], ids=[*CASES, "lite"])
def test_llama_cpp_gives_a_widened_file_the_log_probabilities_that_gorae_gives_it(
    llama_cpp, tmp_path, tokenizer, config
):
    path, ids = written(tmp_path, config, tokenizer, "f16"), some_ids()
    ours = load(path).logits(ids).log_softmax(-1)
    assert 1 < ours.std() < 4, "the tolerances are for log-probabilities of this size"
    torch.testing.assert_close(judged(llama_cpp, widened(path), config, ids), ours, rtol=0, atol=IN_FLOAT32)


# In 26 mixtures rounding to float16 does tip the choice of an expert, so all of them are active here.
ALL_ACTIVE = replace(LITE, num_active_experts=LITE.num_experts)


@pytest.mark.parametrize("config", [*CASES.values(), ALL_ACTIVE], ids=[*CASES, "lite"])
def test_llama_cpp_gives_a_float16_file_the_log_probabilities_that_gorae_gives_it(
    llama_cpp, tmp_path, tokenizer, config
):
    path, ids = written(tmp_path, config, tokenizer, "f16"), some_ids()
    ours = load(path).logits(ids).log_softmax(-1)
    torch.testing.assert_close(judged(llama_cpp, path, config, ids), ours, rtol=0, atol=IN_FLOAT16)


@pytest.mark.parametrize("to", ["q8_0", "q4_0"])
@pytest.mark.parametrize("config", QUANTISABLE.values(), ids=QUANTISABLE)
def test_llama_cpp_decodes_the_blocks_of_a_quantised_file_as_gorae_does(llama_cpp, tmp_path, tokenizer, config, to):
    path, ids = written(tmp_path, config, tokenizer, to), some_ids()
    ours = load(path).logits(ids).log_softmax(-1)
    in_float32 = judged(llama_cpp, widened(path), config, ids)
    torch.testing.assert_close(in_float32, ours, rtol=0, atol=IN_FLOAT32)
    assert (judged(llama_cpp, path, config, ids) - ours).pow(2).mean().sqrt() < QUANTISED


# Measured over three seeds: 0.90 to 1.04 of llama.cpp's divergence at 8 bits; 0.61 to 0.64 at 4, where what absorbed
# attention takes has 8 bits here and 4 there.
@pytest.mark.parametrize(("to", "judged_to", "share"), [("int8", "q8_0", 1.15), ("int4", "q4_0", 0.75)])
def test_gorae_s_formats_are_no_farther_from_the_original_than_llama_cpp_s(
    llama_cpp, tmp_path, tokenizer, to, judged_to, share
):
    write_heavy_tailed(tmp_path / "drawn", seed=3)
    config = replace(V2, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    network = load(tmp_path / "drawn").network
    network.config = config
    save_model(tmp_path / "saved", network, tokenizer=tokenizer)
    convert(tmp_path / "saved", tmp_path / to, to)
    convert_to_gguf(tmp_path / "saved", tmp_path / "model.gguf", judged_to)
    ids = some_ids()
    exact = load(tmp_path / "saved", "exact").logits(ids).double().log_softmax(-1)
    ours = load(tmp_path / to).logits(ids).double().log_softmax(-1)
    theirs = judged(llama_cpp, tmp_path / "model.gguf", config, ids)
    our_kl, their_kl = ((exact.exp() * (exact - other)).sum(-1).mean() for other in (ours, theirs))
    assert our_kl < share * their_kl


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "deepseek_v3"])
def test_a_file_that_says_something_else_is_far_outside_the_tolerances(llama_cpp, tmp_path, tokenizer, architecture):
    config, ids = QUANTISABLE[architecture], some_ids()
    path = written(tmp_path, config, tokenizer, "f16")
    name = {"deepseek_v3": "deepseek2"}.get(architecture, architecture)
    ours = load(path).logits(ids).log_softmax(-1)
    other = judged(llama_cpp, path, config, ids, kv_overrides={f"{name}.rope.freq_base": 5000.0})
    assert (other - ours).abs().max() > 10 * IN_FLOAT16


TEXTS = [
    "",
    " ",
    "Whales don't sing in 1234567 seas;\n\n  they'LL\tsing at 3.14   ",
    "고래는 바다에 산다. 안녕하세요, 세계! 123개",
    "鲸鱼住在海里，3只！ 日本語のテキスト カタカナ",
    "12 + 7 = 19; １２３ ٣٤٥ Ⅷ ½",
    "  \n \n\n a  b   c\t\td \r\n\r\n e\n",
    "<think>a</think><｜User｜> <s>ÄÖÜß Ǆ µ 𐐀</s> x=y+1; // code\r\n",
    "\u00e9 ﬁ ‘quoted’ \U0001f433",
]
NETWORK = {
    "model_type": "qwen2",
    "num_hidden_layers": 1,
    "vocab_size": 600,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
}


def trained(name: str) -> tokenizers.Tokenizer:
    """A tokenizer of this cut whose vocabulary was learnt without it, so that a cut elsewhere gives other tokens.

    Digits alone are learnt apart for deepseek-llm, as DeepSeek's are: llama.cpp does not cut between two digits there.
    """
    uncut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library = tokenizers.Tokenizer(models.BPE())
    library.decoder = decoders.ByteLevel()
    apart = [pre_tokenizers.Digits(individual_digits=True)] if name == "deepseek-llm" else []
    library.pre_tokenizer = pre_tokenizers.Sequence([*apart, uncut])
    trainer = trainers.BpeTrainer(
        vocab_size=580,
        special_tokens=["<pad>", "<s>", "</s>", "<｜User｜>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(TEXTS * 3, trainer)
    library.add_tokens([tokenizers.AddedToken("<think>", special=False, normalized=False)])
    saved = json.loads(library.to_str())
    saved["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": _CUTS[name]}
    saved["model"]["ignore_merges"] = name == "llama-bpe"
    return tokenizers.Tokenizer.from_str(json.dumps(saved))


def judged_ids(llama_cpp: ModuleType, path: Path) -> list[list[int]]:
    judge = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    try:
        return [judge.tokenize(text.encode(), add_bos=False, special=True) for text in TEXTS]
    finally:
        judge.close()


@pytest.mark.parametrize("name", _CUTS)
def test_llama_cpp_cuts_texts_into_the_tokens_of_the_tokenizer_that_was_written(llama_cpp, tmp_path, name):
    library, path = trained(name), tmp_path / "model.gguf"
    tensors = {entry.published: torch.zeros(entry.shape) for entry in entries(NETWORK)}
    write_gguf(path, NETWORK, tensors, library)
    expected = [library.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert judged_ids(llama_cpp, path) == expected


def test_llama_cpp_cuts_texts_into_the_tokens_of_gorae_s_own_tokenizer(llama_cpp, tmp_path, tokenizer):
    path = written(tmp_path, QUANTISABLE["deepseek_v3"], tokenizer, "f16")
    assert judged_ids(llama_cpp, path) == [tokenizer.encode(text, parse_special=True) for text in TEXTS]
