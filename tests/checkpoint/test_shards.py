import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from gorae.checkpoint import load, save_model
from gorae.checkpoint.shards import INDEX, Shards, plan_shards

LIMIT = 20_000


@pytest.fixture
def folder(tmp_path, network) -> Path:
    save_model(tmp_path / "model", network, max_shard_bytes=LIMIT)
    return tmp_path / "model"


def shard(folder: Path, number: int) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[number]


def change_index(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_a_plan_fills_files_in_order_and_gives_a_large_tensor_its_own():
    assert plan_shards({"a": 3, "b": 7}, 10) == {"model.safetensors": ["a", "b"]}
    assert plan_shards({"a": 3, "b": 7, "c": 1, "d": 50, "e": 0, "f": 9}, 10) == {
        "model-00001-of-00004.safetensors": ["a", "b"],
        "model-00002-of-00004.safetensors": ["c"],
        "model-00003-of-00004.safetensors": ["d"],
        "model-00004-of-00004.safetensors": ["e", "f"],
    }
    with pytest.raises(ValueError, match="max_shard_bytes=0 must be positive"):
        plan_shards({"a": 3}, 0)


def test_no_shard_is_above_the_limit_unless_one_tensor_is(folder):
    paths = sorted(folder.glob("*.safetensors"))
    assert len(paths) > 5
    for path in paths:
        tensors = load_file(path)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= LIMIT
    index = json.loads((folder / INDEX).read_text())
    assert index["weight_map"] == dict(sorted((name, path.name) for path in paths for name in load_file(path)))
    assert index["metadata"]["total_size"] == sum(held.nbytes for path in paths for held in load_file(path).values())


def test_transformers_scores_shards_as_it_scores_one_file(tmp_path, folder, network, token_ids):
    save_model(tmp_path / "one", network)

    @torch.no_grad()
    def logits(folder):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, experts_implementation="eager")
        return model(torch.tensor([token_ids])).logits

    assert torch.equal(logits(folder), logits(tmp_path / "one"))


def test_shards_are_loaded_to_the_last_bit_and_replaced_by_one_file(folder, network, token_ids):
    loaded = load(folder)
    expected = network.state_dict()
    assert all(torch.equal(held, expected[name]) for name, held in loaded.network.state_dict().items())
    save_model(folder, loaded.network)
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]


def test_an_index_that_is_not_true_is_told_whole_with_all_else_that_is_wrong(folder):
    one, two, three = [path for path in sorted(folder.glob("*.safetensors")) if len(load_file(path)) > 3][:3]
    first, second = load_file(one), load_file(two)
    twice, gone, moved = next(iter(first)), next(iter(second)), next(iter(load_file(three)))
    del second[gone]
    save_file({**first, "stray": torch.ones(1)}, one, {"format": "pt"})
    save_file({**second, twice: first[twice]}, two, {"format": "pt"})
    change_index(folder, lambda file_of: file_of.update({moved: one.name}))
    with pytest.raises(ValueError, match="5 complaints about its tensors") as caught:
        load(folder)
    assert sorted(str(caught.value).splitlines()[1:]) == sorted(
        [
            f"  index: {moved} is in {three.name}, not in {one.name}",
            f"  index: stray is in {one.name} and not named in it",
            f"  missing: {gone}",
            f"  twice: {twice} is in {one.name} and in {two.name}",
            "  unknown: stray",
        ]
    )


@pytest.mark.parametrize(
    "name",
    ["/etc/a.safetensors", "../a.safetensors", "a/b.safetensors", "..\\a.safetensors", "C:a.safetensors", "", 3, None],
)
def test_an_index_names_only_files_beside_it(folder, name):
    change_index(folder, lambda file_of: file_of.update({"lm_head.weight": name}))
    with pytest.raises(ValueError, match=r"index\.json is no index of a checkpoint .*only \.safetensors files beside"):
        load(folder)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "Expecting"),
        ("[]", "no JSON object"),
        ("{}", "weight_map is no table"),
        ('{"weight_map": {}}', "weight_map is no table"),
        ('{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}', "the key a stands twice"),
    ],
)
def test_a_text_that_is_no_index_is_named(folder, text, complaint):
    (folder / INDEX).write_text(text)
    with pytest.raises(ValueError, match=rf"index\.json is no index .*{complaint}"):
        load(folder)


def test_all_missing_and_broken_files_are_told_at_once(folder):
    gone, cut = shard(folder, 0), shard(folder, 1)
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    with pytest.raises(ValueError) as caught:
        Shards(folder)
    assert f"has no {gone.name}" in str(caught.value)
    assert f"{cut.name} is no whole safetensors file (its tensors end at byte" in str(caught.value)


def test_a_linked_shard_is_read(folder, tmp_path, network):
    """The cache of huggingface_hub keeps files elsewhere and links to them."""
    shard(folder, 0).rename(tmp_path / "blob")
    (folder / "model-00001-of-00000.safetensors").symlink_to(tmp_path / "blob")
    name = sorted(json.loads((folder / INDEX).read_text())["weight_map"].values())[0]
    (folder / "model-00001-of-00000.safetensors").rename(folder / name)
    assert torch.equal(load(folder, weights="float32").network.state_dict()["norm_D"], network.state_dict()["norm_D"])
