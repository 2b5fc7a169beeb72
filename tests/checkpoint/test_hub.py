"""An id in place of a path, against a hub on this machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gorae.checkpoint import load, resolve, save_model

NAME = "gorae/tiny"


@pytest.fixture
def hub(tmp_path, network, tokenizer, serve_hub) -> Iterator[tuple[str, list[str], Path]]:
    """Its address, the files asked of it, and the folder behind it; other files than weights lie there too."""
    folder = tmp_path / "hub"
    save_model(folder, network, tokenizer=tokenizer)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling.py").write_text("raise SystemExit('code of a checkpoint was run')")
    with serve_hub(folder, NAME) as (address, asked):
        yield address, asked, folder


LOAD = """
import sys
import gorae
try:
    model = gorae.load(sys.argv[1])
    print(model.logits([5, 6, 7]).sum().item())
except ValueError as error:
    print(error)
"""


def load_elsewhere(name: str, address: str, home: Path) -> tuple[str, str]:
    """What another process prints and logs that loads `name`; settings of the hub are read when it is imported."""
    own = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, name], capture_output=True, text=True, check=False, env=os.environ | own
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_an_id_loads_as_its_folder_does_and_only_weights_json_and_tokenizer_are_fetched(hub, tmp_path):
    address, asked, folder = hub
    printed, logged = load_elsewhere(f"{NAME}@v1", address, tmp_path / "home")
    assert float(printed) == load(folder).logits([5, 6, 7]).sum().item()
    assert f"{NAME} at revision {'b' * 40}" in logged
    fetched = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(asked) == fetched
    asked.clear()
    again, _ = load_elsewhere(f"{NAME}@{'b' * 40}", address, tmp_path / "home")
    assert again == printed
    assert asked == [], "the cache has this revision"


def test_an_id_that_no_hub_knows_is_an_error_that_says_what_was_tried(hub, tmp_path):
    printed, _ = load_elsewhere("gorae/unknown", hub[0], tmp_path / "home")
    assert printed.startswith("gorae/unknown is not a folder here, and as an id it can not be fetched (")


@pytest.mark.parametrize("path", ["no/such/folder/here", "nothing", "../x/y z"])
def test_what_is_neither_folder_nor_id_is_said_to_be_neither(path):
    with pytest.raises(ValueError, match="is not a folder, nor an id such as"):
        resolve(path)
