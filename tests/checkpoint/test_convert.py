import errno
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gorae.checkpoint import convert, inspect, load, save_model
from gorae.checkpoint.fp8 import quantize, widen
from gorae.checkpoint.names import is_projection, kind_of
from gorae.cli import main
from gorae.cli.convert import parse_size

LIMIT = 20_000  # several files


@pytest.fixture
def source(tmp_path, network, tokenizer) -> Path:
    """A sharded checkpoint in bfloat16 with float32 router biases, as published ones are."""
    folder = tmp_path / "source"
    save_model(folder, network, tokenizer=tokenizer, max_shard_bytes=LIMIT)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        save_file(
            {name: held if name.endswith("_bias") else held.bfloat16() for name, held in tensors.items()},
            path,
            {"format": "pt"},
        )
    return folder


def tensors_in(folder: Path) -> dict[str, Tensor]:
    return {name: held for path in folder.glob("*.safetensors") for name, held in load_file(path).items()}


def config_in(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        held.dtype == right[name].dtype and held.view(torch.uint8).equal(right[name].view(torch.uint8))
        for name, held in left.items()
    )


@pytest.mark.parametrize("powers_of_two", [False, True])
def test_fp8_is_the_projections_quantised_and_all_else_copied(tmp_path, source, powers_of_two):
    convert(source, tmp_path / "fp8", "fp8", powers_of_two=powers_of_two, max_shard_bytes=LIMIT)
    expected = tensors_in(source)
    for name in [name for name in expected if is_projection(name)]:
        expected[name], expected[name + "_scale_inv"] = quantize(expected[name], name, powers_of_two=powers_of_two)
    assert same_bits(tensors_in(tmp_path / "fp8"), expected)
    quantization = config_in(tmp_path / "fp8").pop("quantization_config")
    assert quantization == {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        **({"scale_fmt": "ue8m0"} if powers_of_two else {}),
    }


def test_errors_are_those_of_each_kind_against_the_original(tmp_path, source):
    errors = convert(source, tmp_path / "fp8", "fp8", max_shard_bytes=LIMIT)
    before, after = tensors_in(source), tensors_in(tmp_path / "fp8")
    assert set(errors) == {"attention", "dense", "experts", "shared experts"}
    for kind, error in errors.items():
        names = [name for name in before if is_projection(name) and kind_of(name) == kind]
        pairs = [
            (before[name].double(), widen(after[name], after[name + "_scale_inv"], name).double()) for name in names
        ]
        squared = sum(float((new - old).square().sum()) for old, new in pairs)
        size = sum(float(old.square().sum()) for old, _ in pairs)
        assert error.tensors == len(names)
        assert error.relative == pytest.approx(math.sqrt(squared / size), rel=1e-6)  # widened in float32
        assert error.relative <= error.largest < 0.05  # three bits of mantissa: at most 1 in 16, normal numbers


@pytest.mark.parametrize(
    ("to", "dtype", "word"), [("bf16", torch.bfloat16, "bfloat16"), ("f32", torch.float32, "float32")]
)
def test_fp8_widens_to_what_it_stands_for(tmp_path, source, to, dtype, word):
    convert(source, tmp_path / "fp8", "fp8")
    assert convert(tmp_path / "fp8", tmp_path / "wide", to) == {}
    held = tensors_in(tmp_path / "fp8")
    expected = {
        name: (widen(tensor, held[name + "_scale_inv"], name) if name + "_scale_inv" in held else tensor).to(
            torch.float32 if name.endswith("e_score_correction_bias") else dtype
        )
        for name, tensor in held.items()
        if not name.endswith("_scale_inv")
    }
    assert same_bits(tensors_in(tmp_path / "wide"), expected)
    config = config_in(tmp_path / "wide")
    assert (config["torch_dtype"], "quantization_config" in config) == (word, False)
    assert load(tmp_path / "wide").tokenizer is not None


def test_fp8_to_fp8_is_copied_to_the_last_bit(tmp_path, source):
    convert(source, tmp_path / "fp8", "fp8", powers_of_two=True)
    assert convert(tmp_path / "fp8", tmp_path / "again", "fp8", powers_of_two=True, max_shard_bytes=LIMIT) == {}
    assert same_bits(tensors_in(tmp_path / "again"), tensors_in(tmp_path / "fp8"))
    assert config_in(tmp_path / "again") == config_in(tmp_path / "fp8")


def test_converting_back_to_the_source_type_changes_nothing(tmp_path, source, token_ids):
    convert(source, tmp_path / "wide", "f32")
    convert(tmp_path / "wide", tmp_path / "back", "bf16", max_shard_bytes=LIMIT)
    assert same_bits(tensors_in(tmp_path / "back"), tensors_in(source))
    assert torch.equal(load(tmp_path / "back").logits(token_ids), load(source).logits(token_ids))


def test_tokenizer_and_templates_come_along_and_the_source_is_untouched(tmp_path, source):
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "pytorch_model.bin").write_text("pickle")
    before = contents(source)
    convert(source, tmp_path / "fp8", "fp8")
    assert contents(source) == before
    made = contents(tmp_path / "fp8")
    same = {"chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {name: made[name] for name in same} == {name: before[name] for name in same}
    assert set(made) == same | {"config.json", "model.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "fp8"}


class Killed(BaseException):
    """Stands for kill -9: nothing catches it, nothing is cleaned up."""


@pytest.mark.parametrize("moment", [1, 2, 5])
def test_a_killed_conversion_goes_on_and_redoes_no_finished_file(tmp_path, source, monkeypatch, moment):
    module = convert.__globals__
    write, written = module["write_file"], []

    def dying(path, layouts, tensors):
        written.append(path.name)
        write(path, layouts, tensors)
        if len(written) == moment:
            raise Killed

    expected = convert(source, tmp_path / "whole", "fp8", max_shard_bytes=LIMIT)
    monkeypatch.setitem(module, "write_file", dying)
    with pytest.raises(Killed):
        convert(source, tmp_path / "fp8", "fp8", max_shard_bytes=LIMIT)
    assert not (tmp_path / "fp8").exists()
    again = written.copy()
    errors = convert(source, tmp_path / "fp8", "fp8", max_shard_bytes=LIMIT)
    assert written[len(again)] == again[-1]
    assert len(set(written)) == len(written) - 1
    assert contents(tmp_path / "fp8") == contents(tmp_path / "whole")
    assert {kind: error.relative for kind, error in errors.items()} == pytest.approx(
        {kind: error.relative for kind, error in expected.items()}, rel=1e-12
    )


def half_done(source: Path, target: Path, monkeypatch, error: BaseException) -> None:
    module = convert.__globals__
    write, written = module["write_file"], []

    def failing(path, layouts, tensors):
        written.append(path)
        if len(written) == 3:
            path.write_bytes(b"half")
            raise error
        write(path, layouts, tensors)

    with monkeypatch.context() as patch:
        patch.setitem(module, "write_file", failing)
        convert(source, target, "fp8", max_shard_bytes=LIMIT)


def test_a_full_disk_says_what_to_do_and_the_same_call_goes_on(tmp_path, source, monkeypatch):
    before = contents(source)
    with pytest.raises(OSError, match=r"No space left .* untouched; the same command goes on from what is finished"):
        half_done(source, tmp_path / "fp8", monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    assert contents(source) == before
    convert(source, tmp_path / "fp8", "fp8", max_shard_bytes=LIMIT)
    convert(source, tmp_path / "whole", "fp8", max_shard_bytes=LIMIT)
    assert contents(tmp_path / "fp8") == contents(tmp_path / "whole")


def test_an_interrupt_says_what_to_do(tmp_path, source, monkeypatch, capsys):
    with pytest.raises(KeyboardInterrupt):
        half_done(source, tmp_path / "fp8", monkeypatch, KeyboardInterrupt())
    assert "interrupted; " in capsys.readouterr().err
    convert(source, tmp_path / "fp8", "fp8", max_shard_bytes=LIMIT)
    assert "2 of " in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["to", "source", "shard"])
def test_files_of_another_conversion_are_not_taken_for_this_one(tmp_path, source, monkeypatch, changed):
    with pytest.raises(OSError):
        half_done(source, tmp_path / "new", monkeypatch, OSError("no"))
    to = "bf16" if changed == "to" else "fp8"
    if changed == "source":
        path = sorted(source.glob("*.safetensors"))[0]
        save_file({name: held * 2 for name, held in load_file(path).items()}, path, {"format": "pt"})
    if changed == "shard":
        sorted((tmp_path / ".new.converting").glob("*.safetensors"))[0].write_bytes(b"broken by hand")
    convert(source, tmp_path / "new", to, max_shard_bytes=LIMIT)
    convert(source, tmp_path / "whole", to, max_shard_bytes=LIMIT)
    assert contents(tmp_path / "new") == contents(tmp_path / "whole")


def test_a_record_that_is_broken_says_what_to_do(tmp_path, source):
    folder = tmp_path / ".new.converting"
    folder.mkdir()
    for content in ("", "[]", "{"):
        (folder / "conversion.json").write_text(content)
        with pytest.raises(ValueError, match=r"is no record of a conversion .*; remove .*\.new\.converting to begin"):
            convert(source, tmp_path / "new", "fp8")


def test_too_little_space_is_said_before_anything_is_written(tmp_path, source, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"0\.00 GB are to be written and 0\.00 GB are free; .* untouched"):
        convert(source, tmp_path / "fp8", "fp8")
    assert not list(tmp_path.rglob("*/*.safetensors.partial"))


def test_a_conversion_at_work_is_left_alone(tmp_path, source, monkeypatch):
    def locked(*_):
        raise OSError(errno.EAGAIN, "held")

    monkeypatch.setattr("fcntl.lockf", locked)
    with pytest.raises(ValueError, match="another process works in"):
        convert(source, tmp_path / "fp8", "fp8")


def spoil_config(source: Path, **changes) -> None:
    (source / "config.json").write_text(json.dumps(config_in(source) | changes))


def test_what_can_not_be_converted_is_refused_with_the_rule(tmp_path, source):
    target = tmp_path / "new"
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        convert(tmp_path / "nowhere", target, "fp8")
    with pytest.raises(ValueError, match="source exists; give another name"):
        convert(source, source, "fp8")
    with pytest.raises(ValueError, match="which is never written to"):
        convert(source, source / "inside", "fp8")
    convert(source, tmp_path / "fp8", "fp8")
    with pytest.raises(ValueError, match="is in FP8 already, which is copied as it is"):
        convert(tmp_path / "fp8", target, "fp8", powers_of_two=True)
    spoil_config(source, quantization_config={"quant_method": "gptq"})
    with pytest.raises(ValueError, match=r"config\.json: .*gptq.*only DeepSeek's FP8 .* can be read"):
        convert(source, target, "bf16")
    (source / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        convert(source, target, "fp8")
    assert not target.exists()


def test_a_source_that_is_not_whole_is_refused_and_all_of_it_told(tmp_path, source):
    convert(source, tmp_path / "fp8", "fp8")
    path = tmp_path / "fp8" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.0.mlp.up_proj.weight_scale_inv"]
    tensors["model.layers.0.mlp.down_proj.weight_scale_inv"].fill_(math.nan)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match="2 complaints about its tensors") as caught:
        convert(tmp_path / "fp8", tmp_path / "new", "bf16")
    assert "missing: model.layers.0.mlp.up_proj.weight_scale_inv" in str(caught.value)
    assert "model.layers.0.mlp.down_proj.weight_scale_inv has 1 scales" in str(caught.value)


@pytest.mark.parametrize("take", [lambda path, new: convert(path, new, "bf16"), lambda path, new: inspect(path)])
def test_a_source_that_load_would_refuse_is_not_taken(tmp_path, source, take):
    target = tmp_path / "new"
    spoil_config(source, frobnicate=3)
    with pytest.raises(ValueError, match=r"config\.json: unknown key frobnicate"):
        take(source, target)
    config = config_in(source)
    del config["frobnicate"]
    (source / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4, "vocab_size": 300}))
    with pytest.raises(ValueError, match="complaints about its tensors") as caught:
        take(source, target)
    assert "missing: model.layers.5.self_attn.o_proj.weight" in str(caught.value)
    assert "shape: lm_head.weight is [331, 20], config.json makes it [300, 20]" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.mlp.up_proj.weight"])
@pytest.mark.parametrize(("begins_as", "to"), [("bf16", "bf16"), ("bf16", "f32"), ("bf16", "fp8"), ("fp8", "fp8")])
def test_a_source_whose_values_are_no_finite_numbers_leaves_nothing(tmp_path, source, name, begins_as, to):
    convert(source, tmp_path / "broken", begins_as)
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    tensors[name][..., 3] = math.nan
    save_file(tensors, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"{name} has elements that are not finite numbers"):
        convert(tmp_path / "broken", tmp_path / "new", to)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "broken"}


def test_the_verb_converts_and_prints_the_errors_by_kind(tmp_path, source, capsys):
    assert main(["convert", str(source), str(tmp_path / "fp8"), "--to", "fp8", "--ue8m0"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[:5]] == [
        "quantised",
        "attention",
        "dense",
        "experts",
        "shared",
    ]
    assert config_in(tmp_path / "fp8")["quantization_config"]["scale_fmt"] == "ue8m0"
    assert main(["convert", str(source), str(tmp_path / "wide"), "--to", "bf16", "--ue8m0"]) == 2
    assert "--ue8m0 is about FP8 scales" in capsys.readouterr().err


def test_a_file_of_a_folder_holds_no_more_than_the_size_asked_for(tmp_path, source, capsys):
    command = ["convert", str(source), str(tmp_path / "new"), "--to", "bf16", "--max-shard-size"]
    assert main([*command, "20KB"]) == 0
    sizes = [sum(t.nbytes for t in load_file(path).values()) for path in (tmp_path / "new").glob("*.safetensors")]
    assert len(sizes) > 3
    assert max(sizes) <= 20_000
    for nonsense in ("5", "GB", "0GB", "-1GB", "5 G B", "1e3MB"):
        assert main([*command[:2], str(tmp_path / "other"), *command[3:-1], f"--max-shard-size={nonsense}"]) == 2
        assert f"--max-shard-size {nonsense} is no size above 0; give a number and its unit" in capsys.readouterr().err
    assert main([*command[:2], str(tmp_path / "m.gguf"), "--to", "gguf-f16", "--max-shard-size", "5GB"]) == 2
    assert "--max-shard-size is about the files of a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5_000_000_000), ("1.5gb", 1_500_000_000), ("500 MB", 500_000_000), ("2GiB", 2 << 30)]
)
def test_sizes_are_read_in_the_units_people_write(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("to", ["fp8", "mixed"])
def test_a_tokenizer_that_load_would_refuse_is_not_copied(tmp_path, source, to):
    whole = (source / "tokenizer.json").read_bytes()
    (source / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"source/tokenizer\.json"):
        convert(source, tmp_path / "new", to)
    (source / "tokenizer.json").write_bytes(whole)
    vocabulary = json.loads(whole)
    last = vocabulary["added_tokens"][-1]
    vocabulary["added_tokens"] += [{**last, "id": 300 + one, "content": f"<{one}>"} for one in range(60)]
    (source / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ValueError, match=r"the tokenizer has \d+ tokens and the network vocab_size=331"):
        convert(source, tmp_path / "new", to)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_one_complaint_is_one(tmp_path, source):
    path = sorted(source.glob("model-*.safetensors"))[0]
    tensors = load_file(path)
    name = next(iter(tensors))
    tensors[name] = tensors[name][None].contiguous()
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match="1 complaint about its tensors"):
        inspect(source)
