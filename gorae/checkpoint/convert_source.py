"""What a conversion reads: a checkpoint folder or a GGUF file, mapped, with tensors and config under published names.

A source is whole once it is open: what `load` would refuse of it has been told by then. Knows no
target.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from gorae.checkpoint.convert_record import RECORD
from gorae.checkpoint.gguf_read import GgufFile, read_gguf, text_tokenizer
from gorae.checkpoint.load import bits_in, config_of, require_fitting
from gorae.checkpoint.quantised import Unpacked, panel_shapes
from gorae.checkpoint.shards import Shards, Tensors, read_published
from gorae.checkpoint.weights import fitting_network
from gorae.config import ModelConfig
from gorae.text import Tokenizer

_COPIED = {".json", ".jinja", ".txt", ".md", ".model", ".py"}  # what else a checkpoint folder has that is small


class Source(NamedTuple):
    """An open source: its tensors, its config.json, and, of a GGUF file, what it has beside them.

    `tensors` of a folder in panels are as they were before; `bits` are those it lies at (`read_bits`).
    """

    path: Path
    tensors: Tensors
    published: dict[str, Any]
    config: ModelConfig
    bits: Mapping[str, int] = {}
    gguf: GgufFile | None = None
    text_tokenizer: Tokenizer | None = None

    def tokenizer(self) -> tuple[tokenizers.Tokenizer | None, str | None]:
        """Its tokenizer and chat template; None where it has none."""
        if self.gguf is not None:
            return self.gguf.tokenizer, self.gguf.chat_template
        if not (self.path / "tokenizer.json").is_file():
            return None, None
        template = Tokenizer.load(self.path).chat_template  # and judges the file, of which the library may die
        return tokenizers.Tokenizer.from_file(str(self.path / "tokenizer.json")), template

    def write_others(self, folder: Path) -> None:
        """Write the tokenizer, templates and the like to a folder: all but the tensors and config.json."""
        if self.gguf is not None:
            if self.text_tokenizer is not None:
                self.text_tokenizer.save(folder)
            return
        for path in sorted(self.path.iterdir()):
            is_copied = path.suffix in _COPIED or path.name.startswith("LICENSE")
            is_ours = path.name in ("config.json", RECORD) or path.name.endswith(".index.json")
            if path.is_file() and is_copied and not is_ours:
                shutil.copyfile(path, folder / path.name)


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open a folder or a GGUF file. Raises ValueError, telling all that is wrong, for one that is not whole."""
    if path.is_file() and path.suffix == ".gguf":
        file = read_gguf(path)
        config = config_of(file.published, path)
        try:
            tokenizer = text_tokenizer(file)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        yield Source(path, file.tensors, dict(file.published), config, {}, file, tokenizer)
        return
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; give one with config.json and safetensors files, or a .gguf file")
    with Shards(path) as shards:
        published, file = read_published(path), path / "config.json"
        bits = bits_in(published, file)
        network = fitting_network(config_of(published, file), shards, bits)
        if (path / "tokenizer.json").is_file():
            require_fitting(Tokenizer.load(path), network.config, path)
        tensors = Unpacked(shards, panel_shapes(network, bits), network.config) if bits else shards
        yield Source(path, tensors, published, network.config, bits)
