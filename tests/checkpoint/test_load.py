import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import gorae
from gorae.checkpoint import load, save_model
from gorae.model import Network


@pytest.fixture
def folder(tmp_path, network) -> Path:
    save_model(tmp_path / "model", network)
    return tmp_path / "model"


def change_tensors(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def same_tensors(left: Network, right: Network) -> bool:
    left_state, right_state = left.state_dict(), right.state_dict()
    return left_state.keys() == right_state.keys() and all(
        torch.equal(left_state[name], right_state[name]) for name in left_state
    )


def test_what_was_saved_is_loaded_to_the_last_bit(folder, network, config):
    model = load(str(folder), weights="float32")
    assert same_tensors(model.network, network)
    assert model.config == config
    assert model.tokenizer is None
    assert not model.network.training
    assert all(parameter.requires_grad for parameter in model.network.parameters())


def test_gorae_load_is_this_load():
    assert gorae.load is load


def test_logits_are_the_networks_own(folder, network, token_ids):
    logits = load(folder).logits(token_ids)
    assert (logits.dtype, logits.shape, logits.requires_grad) == (torch.float32, (23, 331), False)
    with torch.no_grad():
        assert torch.equal(logits, network.logits(network(torch.tensor([token_ids])).hidden_BTD)[0])


def test_logits_of_no_tokens_are_no_rows(folder):
    assert load(folder).logits([]).shape == (0, 331)


@pytest.mark.parametrize("bad", [-1, 331])
def test_a_token_outside_the_vocabulary_is_refused_with_its_bounds(folder, bad):
    with pytest.raises(ValueError, match="vocab_size - 1 = 330"):
        load(folder).logits([0, bad])


def test_a_tokenizer_in_the_folder_comes_along(tmp_path, network, tokenizer):
    save_model(tmp_path / "model", network, tokenizer=tokenizer)
    loaded = load(tmp_path / "model").tokenizer
    assert loaded is not None
    assert loaded.encode("고래 鲸鱼 whale 7") == tokenizer.encode("고래 鲸鱼 whale 7")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_width_tensors_are_widened_to_float32(folder, network, dtype):
    change_tensors(folder, lambda tensors: tensors.update({name: held.to(dtype) for name, held in tensors.items()}))
    loaded = load(folder, weights="float32").network
    assert all(held.dtype == torch.float32 for held in loaded.state_dict().values())
    assert same_tensors(loaded, network.to(dtype).float())


def test_weights_are_held_in_one_of_two_ways(folder):
    with pytest.raises(ValueError, match="weights='bf16' must be one of 'stored', 'float32'"):
        load(folder, weights="bf16")


def test_a_path_that_is_no_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")


def test_a_folder_without_config_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_config_that_is_no_json_object_is_named(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"model/config\.json"):
        load(folder)


def test_a_config_of_another_family_is_refused_with_its_file(folder):
    change_config(folder, model_type="mamba")
    with pytest.raises(ValueError, match=r"model/config\.json: model_type='mamba'"):
        load(folder)


def test_missing_weights_are_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        load(folder)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_file_cut_short_is_named(folder, share):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"model\.safetensors is no whole safetensors file"):
        load(folder)


def test_everything_wrong_with_the_tensors_is_told_at_once(folder):
    def spoil(tensors):
        del tensors["model.norm.weight"]
        del tensors["model.layers.1.mlp.experts.5.up_proj.weight"]
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:, :-1].contiguous()
        tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].double()
        tensors["model.layers.2.mlp.gate.weight"] = tensors["model.layers.2.mlp.gate.weight"].long()

    change_tensors(folder, spoil)
    with pytest.raises(ValueError) as caught:
        load(folder)
    assert sorted(str(caught.value).splitlines()[1:]) == [
        "  missing: model.layers.1.mlp.experts.5.up_proj.weight",
        "  missing: model.norm.weight",
        "  shape: lm_head.weight is [331, 19], config.json makes it [331, 20]",
        "  type: model.layers.0.mlp.up_proj.weight is F64; only F32, BF16, F16, F8_E4M3 can be read",
        "  type: model.layers.2.mlp.gate.weight is I64; only F32, BF16, F16, F8_E4M3 can be read",
        "  unknown: model.layers.0.self_attn.rotary_emb.inv_freq",
    ]


def test_a_config_of_another_size_does_not_fit_the_tensors(folder):
    change_config(folder, hidden_size=24)
    with pytest.raises(ValueError, match=r"embed_tokens\.weight is \[331, 20\], config.json makes it \[331, 24\]"):
        load(folder)


def test_mtp_modules_need_not_repeat_embedding_and_head(folder, network):
    def drop_copies(tensors):
        for layer in (3, 4):
            del tensors[f"model.layers.{layer}.embed_tokens.weight"]
            del tensors[f"model.layers.{layer}.shared_head.head.weight"]

    change_tensors(folder, drop_copies)
    assert same_tensors(load(folder, weights="float32").network, network)


def test_an_mtp_module_with_a_head_of_its_own_is_refused(folder):
    change_tensors(folder, lambda tensors: tensors["model.layers.4.shared_head.head.weight"].add_(1))
    with pytest.raises(ValueError, match=r"model\.layers\.4\.shared_head\.head\.weight differ from the network's own"):
        load(folder)


def test_a_checkpoint_whose_mtp_modules_were_dropped_loads_without_them(folder, network, token_ids):
    def drop_mtp(tensors):
        for name in [name for name in tensors if re.match(r"model\.layers\.[34]\.", name)]:
            del tensors[name]

    whole = load(folder).logits(token_ids)
    change_tensors(folder, drop_mtp)
    model = load(folder)
    assert model.config == replace(network.config, num_mtp_modules=0)
    assert torch.equal(model.logits(token_ids), whole)


def test_a_checkpoint_with_part_of_its_mtp_modules_is_refused(folder):
    change_tensors(folder, lambda tensors: tensors.pop("model.layers.4.enorm.weight"))
    with pytest.raises(ValueError, match=r"missing: model\.layers\.4\.enorm\.weight"):
        load(folder)


def test_a_tokenizer_larger_than_the_network_is_refused(folder, tokenizer):
    tokenizer.save(folder)
    change_config(folder, vocab_size=tokenizer.vocab_size - 1)
    change_tensors(
        folder,
        lambda tensors: tensors.update(
            {
                name: held[: tokenizer.vocab_size - 1].contiguous()
                for name, held in tensors.items()
                if name.endswith(("embed_tokens.weight", "head.weight"))
            }
        ),
    )
    with pytest.raises(ValueError, match=f"the tokenizer has {tokenizer.vocab_size} tokens and the network vocab_size"):
        load(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {
        "model.norm.weight": "model-00001-of-00002.safetensors",
        "lm_head.weight": "model-00002-of-00002.safetensors",
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ValueError, match=r"has no model-00002-of-00002\.safetensors"):
        load(folder)
