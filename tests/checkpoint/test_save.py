import json
import shutil
import threading
from pathlib import Path

import pytest
import torch

from gorae.checkpoint import folder as folder_module
from gorae.checkpoint import load, save_model
from gorae.config import from_published


def which(folder: Path, networks) -> int:
    """The place in `networks` of the one that `folder` holds."""
    found = load(folder, weights="float32").network.state_dict()
    (place,) = [
        place
        for place, network in enumerate(networks)
        if all(torch.equal(found[name], held) for name, held in network.state_dict().items())
    ]
    return place


def test_a_folder_has_what_hugging_face_folders_have(tmp_path, network, tokenizer):
    save_model(str(tmp_path / "runs" / "model"), network, tokenizer=tokenizer)
    folder = tmp_path / "runs" / "model"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert from_published(json.loads((folder / "config.json").read_text())) == network.config
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == network.config.eos_id
    assert "chat_template" in json.loads((folder / "tokenizer_config.json").read_text())
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_the_same_network_gives_the_same_bytes(tmp_path, network, tokenizer):
    for name in ("one", "two"):
        save_model(tmp_path / name, network, tokenizer=tokenizer)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_saved_model_is_replaced_whole(tmp_path, network, other_network, tokenizer):
    folder = tmp_path / "model"
    save_model(folder, network, tokenizer=tokenizer)
    save_model(folder, other_network)
    assert which(folder, [network, other_network]) == 1
    assert load(folder).tokenizer is None
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_link_to_a_folder_stays_a_link(tmp_path, network, other_network):
    save_model(tmp_path / "first", network)
    (tmp_path / "latest").symlink_to("first")
    save_model(tmp_path / "latest", other_network)
    assert (tmp_path / "latest").is_symlink()
    assert which(tmp_path / "first", [network, other_network]) == 1


def test_other_files_in_the_folder_are_never_removed(tmp_path, network):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes\.txt, which saving a model there would remove"):
        save_model(tmp_path, network)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path, network):
    (tmp_path / "model").write_text("")
    with pytest.raises(ValueError, match="model is a file"):
        save_model(tmp_path / "model", network)


def test_a_tokenizer_with_more_tokens_than_the_network_is_refused_before_anything_is_written(
    tmp_path, network, tokenizer, monkeypatch
):
    monkeypatch.setattr(tokenizer, "vocab_size", network.config.vocab_size + 1)
    with pytest.raises(ValueError, match="the tokenizer has 332 tokens and the network vocab_size=331"):
        save_model(tmp_path / "model", network, tokenizer=tokenizer)
    assert not list(tmp_path.iterdir())


def test_a_failure_while_writing_leaves_the_old_model(tmp_path, network, other_network, tokenizer, monkeypatch):
    folder = tmp_path / "model"
    save_model(folder, network)

    def fail(folder):
        raise OSError("disk full")

    monkeypatch.setattr(tokenizer, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(folder, other_network, tokenizer=tokenizer)
    assert which(folder, [network, other_network]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


class Killed(BaseException):
    """Stands for kill -9: nothing catches it, nothing is cleaned up."""


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("steps", range(6))
def test_a_kill_between_any_two_steps_leaves_a_whole_model(
    tmp_path, network, other_network, monkeypatch, can_exchange, steps
):
    folder = tmp_path / "model"
    save_model(folder, network)
    left = steps

    def dying(step):
        def run(*arguments, **named):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return step(*arguments, **named)

        return run

    with monkeypatch.context() as patch:
        exchange = folder_module._exchange if can_exchange else lambda first, second: False
        patch.setattr(folder_module, "_exchange", dying(exchange))
        patch.setattr(Path, "rename", dying(Path.rename))
        patch.setattr(shutil, "rmtree", dying(shutil.rmtree))
        try:
            save_model(folder, other_network)
        except Killed:
            assert steps < 4
    assert which(folder, [network, other_network]) in (0, 1)
    save_model(folder, other_network)
    assert which(folder, [network, other_network]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_at_no_moment_is_there_no_model(tmp_path, network):
    """Where the system can exchange folders in one step, as Linux and macOS can."""
    folder = tmp_path / "model"
    save_model(folder, network)
    (tmp_path / "other").mkdir()
    if not folder_module._exchange(folder, tmp_path / "other"):
        pytest.skip("this file system can not exchange two folders")
    folder_module._exchange(folder, tmp_path / "other")
    done, missing = threading.Event(), 0

    def watch():
        nonlocal missing
        while not done.is_set():
            missing += not (folder / "model.safetensors").exists()

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(20):
        save_model(folder, network)
    done.set()
    watcher.join()
    assert missing == 0
