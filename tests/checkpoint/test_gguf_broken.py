"""Broken and hostile GGUF files: nothing but ValueError comes out, and memory stays that of a small file."""

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gorae.checkpoint import read_gguf, write_gguf
from gorae.checkpoint.gguf_names import entries

SHARED = {
    "num_hidden_layers": 2,
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA = {**SHARED, "model_type": "llama", "tie_word_embeddings": True, "rope_scaling": LLAMA3}
DEEPSEEK = {
    **SHARED,
    "model_type": "deepseek_v3",
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 4,
    "v_head_dim": 32,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
    "n_routed_experts": 3,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
}


def random_tensors(published: dict) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {entry.published: torch.randn(entry.shape, generator=generator) for entry in entries(published)}


@pytest.fixture(scope="module")
def files(tmp_path_factory, tokenizer) -> dict[str, bytes]:
    """A llama with a tokenizer, and a deepseek_v3 of quantised tensors, as bytes."""
    folder = tmp_path_factory.mktemp("whole")
    write_gguf(folder / "llama", LLAMA, random_tensors(LLAMA), tokenizer._library, to="q4_0", chat_template="{{ 1 }}")
    write_gguf(folder / "deepseek", DEEPSEEK, random_tensors(DEEPSEEK), to="q8_0")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_all(path: Path) -> None:
    read = read_gguf(path)
    for name in read.tensors:
        assert read.tensors[name].isfinite().all()


def broken(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    assert content.count(old) == 1, f"{old!r} is there {content.count(old)} times"
    return content.replace(old, new)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def test_whole_files_are_read(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        read_all(tmp_path / name)


@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("name", ["llama", "deepseek"])
def test_a_file_cut_short_is_named(tmp_path, files, name, share):
    message = broken(tmp_path / "cut.gguf", files[name][: int(share * len(files[name]))])
    assert "cut short" in message or "do not fit" in message or "does not begin with GGUF" in message


def test_a_path_without_a_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.gguf: there is no such file"):
        read_gguf(tmp_path / "nowhere.gguf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"GGML" + content[4:], "does not begin with GGUF"),
        (lambda content: content[:4] + struct.pack("<I", 1) + content[8:], "GGUF version 1"),
        (lambda content: content[:4] + struct.pack(">I", 3) + content[8:], "big-endian"),
        (lambda content: content[:8] + struct.pack("<Q", 1 << 60) + content[16:], "1152921504606846976 tensors do not"),
        (lambda content: content[:16] + struct.pack("<Q", 1 << 60) + content[24:], "metadata values do not fit"),
        (lambda content: content[:24] + struct.pack("<Q", 1 << 60) + content[32:], "bytes of text do not fit"),
        (lambda content: replaced(content, b"llama.block_count", b"llama.black_count"), "llama.block_count=None must"),
        (lambda content: replaced(content, b"llama.block_count", b"llama.vocab_size\xff"), "is not UTF-8"),
        (lambda content: replaced(content, text("blk.1.attn_k.weight"), text("blk.0.attn_k.weight")), "there twice"),
        (lambda content: replaced(content, text("blk.1.attn_k.weight"), text("blk.1.attn_x.weight")), "missing: blk.1"),
        (lambda content: replaced(content, text("gpt2"), text("bert")), "tokenizer.ggml.model='bert'"),
        (lambda content: replaced(content, text("starcoder"), text("starreads")), "tokenizer.ggml.pre='starreads'"),
    ],
)
def test_what_is_wrong_with_the_header_is_told(tmp_path, files, change, message):
    assert message in broken(tmp_path / "broken.gguf", change(files["llama"]))


def tensor_field(content: bytes, name: str, field: str, value: int) -> bytes:
    """Change one field of a tensor's line in the header: dims of a matrix, type, offset."""
    begin = content.index(text(name)) + len(text(name))
    place, size = {"num_dims": (0, 4), "row": (4, 8), "rows": (12, 8), "type": (20, 4), "offset": (24, 8)}[field]
    assert content[begin : begin + 4] == struct.pack("<I", 2)
    return content[: begin + place] + value.to_bytes(size, "little") + content[begin + place + size :]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_dims", 5, "has 5 dimensions"),
        ("row", 1 << 62, "ends at byte"),
        ("row", 33, "rows are multiples of 32"),
        ("rows", 1 << 62, "ends at byte"),
        ("rows", 0, "rows are multiples of 32"),
        ("type", 16, "is of type 16, which can not be read"),
        ("type", 4096, "is of type 4096, which can not be read"),
        ("offset", 1 << 62, "ends at byte"),
        ("offset", 0, "overlap"),
        ("offset", 17, "is no multiple of 32"),
        ("rows", 16, "blk.1.attn_v.weight is [16, 32], metadata makes it [32, 32]"),
    ],
)
def test_what_is_wrong_with_a_tensor_is_told(tmp_path, files, field, value, message):
    content = tensor_field(files["llama"], "blk.1.attn_v.weight", field, value)
    assert message in broken(tmp_path / "broken.gguf", content)


def test_more_experts_or_layers_than_the_file_holds_are_refused_before_they_are_counted_out(tmp_path, files):
    def with_count(key: str, value: int) -> bytes:
        content = files["deepseek"]
        begin = content.index(text(key)) + len(text(key)) + 4
        return content[:begin] + struct.pack("<I", value) + content[begin + 4 :]

    assert "is more than the file holds" in broken(tmp_path / "a", with_count("deepseek2.expert_count", 1 << 31))
    assert "leaves 2147483648 layers" in broken(tmp_path / "b", with_count("deepseek2.block_count", 1 << 31))


@pytest.mark.parametrize("name", ["llama", "deepseek"])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_a_scale_that_is_no_finite_number_is_named_with_its_tensor(tmp_path, files, name, scale):
    path = tmp_path / "broken.gguf"
    path.write_bytes(files[name])
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}["blk.0.ffn_up.weight"]
    block = {"llama": 18, "deepseek": 34}[name]
    begin = stored.data_offset + 5 * block
    content = files[name][:begin] + np.float16(scale).tobytes() + files[name][begin + 2 :]
    assert "blk.0.ffn_up.weight has a scale that is no finite number" in broken(path, content)


def test_a_norm_that_is_no_number_is_named(tmp_path, files):
    path = tmp_path / "broken.gguf"
    path.write_bytes(files["llama"])
    begin = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}["output_norm.weight"].data_offset
    content = files["llama"][:begin] + np.float32(np.nan).tobytes() + files["llama"][begin + 4 :]
    assert "output_norm.weight has a value that is no finite number" in broken(path, content)


# where most of a file's meaning is: counts, lengths, types, keys, tensor lines
places = st.floats(0, 1).map(lambda share: share**4)
numbers = st.sampled_from([0, 1, 2, 31, 255, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1])
changes = st.lists(
    st.one_of(
        st.tuples(st.just("byte"), places, st.integers(0, 255)),
        st.tuples(st.just("four"), places, numbers),
        st.tuples(st.just("eight"), places, numbers),
        st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
        st.tuples(st.just("drop"), places, st.integers(1, 16)),
        st.tuples(st.just("double"), places, st.integers(1, 64)),
    ),
    min_size=1,
    max_size=4,
)


def changed(content: bytes, edits: list[tuple[str, float, int]]) -> bytes:
    for kind, share, value in edits:
        place = int(share * len(content))
        if kind == "cut":
            content = content[:place]
        elif kind == "drop":
            content = content[:place] + content[place + value :]
        elif kind == "double":
            content = content[: place + value] + content[place:]
        else:
            size = {"byte": 1, "four": 4, "eight": 8}[kind]
            written = (value % (1 << 8 * size)).to_bytes(size, "little")
            content = content[:place] + written + content[place + size :]
    return content


@pytest.mark.parametrize("name", ["llama", "deepseek"])
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(edits=changes)
@example(edits=[("cut", 1.0, 0)])
def test_nothing_but_value_error_comes_out_of_changed_bytes_and_memory_stays_small(tmp_path, files, name, edits):
    path = tmp_path / "changed.gguf"
    path.unlink(missing_ok=True)  # a mapped file must not change under its map
    path.write_bytes(changed(files[name], edits))
    tracemalloc.start()
    try:
        read_all(path)
    except ValueError:
        pass
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_bytes < 8 << 20, "a file of 100 kB needs no more"
