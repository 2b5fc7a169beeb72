"""GGUF as the target and as the source of a conversion; what the format itself can hold is tested in test_gguf.py."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gorae.checkpoint import convert, convert_to_gguf, load, read_gguf, save_model
from gorae.checkpoint.convert_gguf import _Widened
from gorae.checkpoint.fp8 import quantize
from gorae.checkpoint.gguf_write import plan_gguf
from gorae.checkpoint.names import is_projection
from gorae.cli import main
from gorae.config import ModelConfig, to_published
from gorae.model import Network
from gorae.text import Message

SMALL = ModelConfig(
    vocab_size=300,
    model_dim=64,
    num_layers=2,
    num_heads=2,
    query_rank=None,
    latent_dim=32,
    nope_dim=10,
    rope_dim=6,
    value_dim=16,
    dense_dim=96,
    expert_dim=32,
    num_experts=4,
    num_active_experts=2,
    router="softmax",
    normalize_routing=False,
    num_expert_groups=1,
    num_active_groups=1,
    num_dense_layers=1,
)


@pytest.fixture
def source(tmp_path) -> Path:
    """A folder in float32 whose weights float16 holds exactly."""
    network = Network(SMALL, seed=1)
    for tensor in network.state_dict().values():
        tensor.copy_(tensor.half())
    save_model(tmp_path / "source", network)
    return tmp_path / "source"


def tensors_in(folder: Path) -> dict[str, Tensor]:
    return {name: held for path in folder.glob("*.safetensors") for name, held in load_file(path).items()}


class Killed(BaseException):
    """Stands for kill -9: nothing catches it, nothing is cleaned up."""


@contextmanager
def asking(
    monkeypatch, *, fail_at: int = 0, error: BaseException | type[BaseException] = Killed
) -> Iterator[list[str]]:
    """Yield the names of the tensors a conversion asks for, as it does; asking for number `fail_at` is an error."""
    asked, read = [], _Widened.__getitem__

    def counting(self, name):
        asked.append(name)
        if len(asked) == fail_at:
            raise error
        return read(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(_Widened, "__getitem__", counting)
        yield asked


# Of 38: the experts' gates are numbers 22 to 25 and one tensor of the file, so a kill among them loses those before.
@pytest.mark.parametrize(("moment", "kept"), [(1, 0), (2, 1), (24, 21), (25, 21), (26, 25), (38, 37)])
def test_a_killed_conversion_goes_on_to_the_same_bytes_and_redoes_no_finished_tensor(
    tmp_path, source, monkeypatch, moment, kept
):
    with asking(monkeypatch) as asked:
        convert_to_gguf(source, tmp_path / "whole.gguf", "q8_0")
    assert len(asked) == 38
    with asking(monkeypatch, fail_at=moment), pytest.raises(Killed):
        convert_to_gguf(source, tmp_path / "new.gguf", "q8_0")
    assert not (tmp_path / "new.gguf").exists()
    with asking(monkeypatch) as asked_again:
        convert_to_gguf(source, tmp_path / "new.gguf", "q8_0")
    assert asked_again == asked[kept:]
    assert (tmp_path / "new.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"source", "whole.gguf", "new.gguf"}


@pytest.mark.parametrize("lost", ["all", "the end"])
def test_tensors_that_the_file_has_lost_are_written_again(tmp_path, source, monkeypatch, lost):
    with asking(monkeypatch) as asked:
        convert_to_gguf(source, tmp_path / "whole.gguf", "q8_0")
    with asking(monkeypatch, fail_at=30), pytest.raises(Killed):
        convert_to_gguf(source, tmp_path / "new.gguf", "q8_0")
    unfinished = tmp_path / ".new.gguf.converting/new.gguf"
    if lost == "all":
        unfinished.unlink()
    else:
        os.truncate(unfinished, plan_gguf(to_published(SMALL), to="q8_0").tensors[4].end + 1)
    with asking(monkeypatch) as asked_again:
        convert_to_gguf(source, tmp_path / "new.gguf", "q8_0")
    assert asked_again == asked[0 if lost == "all" else 5 :]
    assert (tmp_path / "new.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


@pytest.mark.parametrize("changed", ["to", "source"])
def test_tensors_of_another_conversion_are_not_taken_for_this_one(tmp_path, source, monkeypatch, changed, capsys):
    with asking(monkeypatch, fail_at=30), pytest.raises(Killed):
        convert_to_gguf(source, tmp_path / "new.gguf", "q8_0")
    if changed == "source":
        path = source / "model.safetensors"
        save_file({name: tensor * 2 for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    for name in ("new", "whole"):
        convert_to_gguf(source, tmp_path / f"{name}.gguf", "f16" if changed == "to" else "q8_0")
    assert (tmp_path / "new.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert "beginning anew" in capsys.readouterr().err


def test_a_full_disk_and_an_interrupt_say_what_to_do(tmp_path, source, monkeypatch, capsys):
    before = (source / "model.safetensors").read_bytes()
    full = OSError(errno.ENOSPC, "No space left on device")
    told = r"No space left .* untouched; the same command goes on from what is finished in .*\.new\.gguf\.converting"
    with asking(monkeypatch, fail_at=9, error=full), pytest.raises(OSError, match=told):
        convert_to_gguf(source, tmp_path / "new.gguf", "q8_0")
    with asking(monkeypatch, fail_at=9, error=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        convert_to_gguf(source, tmp_path / "new.gguf", "q8_0")
    printed = capsys.readouterr().err
    assert "8 of 29 tensors are there from an earlier attempt" in printed
    assert "interrupted; " in printed
    assert (source / "model.safetensors").read_bytes() == before


def test_too_little_space_is_said_before_anything_is_written(tmp_path, source, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"0\.00 GB are to be written and 0\.00 GB are free; .* untouched"):
        convert_to_gguf(source, tmp_path / "new.gguf", "q8_0")
    assert not list(tmp_path.rglob("*.gguf"))


def test_a_source_that_can_not_be_written_as_gguf_leaves_nothing_behind(tmp_path, source):
    path = source / "model.safetensors"
    save_file({name: tensor * 1e30 for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="no finite number in Q8_0"):
        convert_to_gguf(source, tmp_path / "new.gguf", "q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_source_with_a_broken_tokenizer_or_config_leaves_nothing_behind(tmp_path, source):
    (source / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json can not be read as a tokenizer"):
        convert_to_gguf(source, tmp_path / "new.gguf", "f16")
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"frobnicate": 3}))
    with pytest.raises(ValueError, match=r"config\.json: unknown key frobnicate"):
        convert_to_gguf(source, tmp_path / "new.gguf", "f16")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.fixture
def gguf_source(tmp_path, source) -> Path:
    convert_to_gguf(source, tmp_path / "source.gguf", "f16")
    return tmp_path / "source.gguf"


@pytest.mark.parametrize(("to", "dtype"), [("f32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_gguf_file_becomes_a_folder_of_its_weights(tmp_path, source, gguf_source, to, dtype):
    before = gguf_source.read_bytes()
    assert convert(gguf_source, tmp_path / "new", to, max_shard_bytes=50_000) == {}
    made, expected = tensors_in(tmp_path / "new"), tensors_in(source)
    assert set(made) == set(expected)
    for name, tensor in made.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, expected[name].to(dtype)), name
    assert len(list((tmp_path / "new").glob("*.safetensors"))) > 2
    assert gguf_source.read_bytes() == before


def test_fp8_of_a_gguf_file_is_its_projections_quantised_and_all_else_in_its_own_type(tmp_path, source, gguf_source):
    errors = convert(gguf_source, tmp_path / "new", "fp8")
    assert set(errors) == {"attention", "dense", "experts", "shared experts"}
    made, exact = tensors_in(tmp_path / "new"), tensors_in(source)
    for name, tensor in exact.items():
        if is_projection(name):
            values, scales = quantize(tensor, name)
            assert made.pop(name).view(torch.uint8).equal(values.view(torch.uint8))
            assert torch.equal(made.pop(name + "_scale_inv"), scales)
        else:
            found = made.pop(name)
            is_float32 = tensor.ndim == 1 or name.endswith("mlp.gate.weight")
            assert found.dtype == (torch.float32 if is_float32 else torch.float16), name
            assert torch.equal(found.float(), tensor)
    assert not made


def test_a_quantised_gguf_file_becomes_the_weights_it_loads_as(tmp_path, source):
    convert_to_gguf(source, tmp_path / "q4_0.gguf", "q4_0")
    convert(tmp_path / "q4_0.gguf", tmp_path / "new", "f32")
    held = read_gguf(tmp_path / "q4_0.gguf").tensors
    made = tensors_in(tmp_path / "new")
    assert set(made) == set(held)
    assert all(torch.equal(tensor, held[name]) for name, tensor in made.items())


def test_a_gguf_file_becomes_another_gguf_file_with_the_same_bytes_as_from_its_source(tmp_path, source, gguf_source):
    convert_to_gguf(source, tmp_path / "direct.gguf", "q8_0")
    convert_to_gguf(gguf_source, tmp_path / "by way.gguf", "q8_0")
    assert (tmp_path / "by way.gguf").read_bytes() == (tmp_path / "direct.gguf").read_bytes()


def test_tokenizer_and_template_of_a_gguf_file_come_along(tmp_path, network, tokenizer):
    save_model(tmp_path / "saved", network, tokenizer=tokenizer)
    convert_to_gguf(tmp_path / "saved", tmp_path / "model.gguf", "f16")
    assert main(["convert", str(tmp_path / "model.gguf"), str(tmp_path / "new"), "--to", "bf16"]) == 0
    read = load(tmp_path / "new").tokenizer
    assert read is not None
    assert read.chat_template == tokenizer.chat_template
    assert (read.bos_id, read.eos_id) == (tokenizer.bos_id, tokenizer.eos_id)
    chat = [Message("user", "고래 12 + 7 = ? 鲸鱼 <think>")]
    assert read.encode_chat(chat) == tokenizer.encode_chat(chat)
    convert_to_gguf(tmp_path / "model.gguf", tmp_path / "same.gguf", "f16")
    assert (tmp_path / "same.gguf").read_bytes() == (tmp_path / "model.gguf").read_bytes()


def test_a_gguf_file_that_is_no_source_is_refused_with_the_rule(tmp_path, gguf_source):
    os.truncate(gguf_source, gguf_source.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"source\.gguf: tensor .* is cut short or broken"):
        convert(gguf_source, tmp_path / "new", "f32")
    (tmp_path / "model.bin").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"model\.bin is not a folder; give one with .* or a \.gguf file"):
        convert(tmp_path / "model.bin", tmp_path / "new", "f32")
    assert not (tmp_path / "new").exists()


def test_a_gguf_file_whose_tokenizer_can_not_be_written_is_refused_before_its_tensors(
    tmp_path, network, tokenizer, monkeypatch
):
    save_model(tmp_path / "saved", network, tokenizer=tokenizer)
    path = tmp_path / "saved/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": network.config.vocab_size - 1}))
    convert_to_gguf(tmp_path / "saved", tmp_path / "model.gguf", "f16")
    with pytest.raises(ValueError, match=r"model\.gguf: its tokenizer has no token of the ids"):
        convert(tmp_path / "model.gguf", tmp_path / "new", "f32")
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "model.gguf"}
