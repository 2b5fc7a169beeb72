"""A Hugging Face folder or a GGUF file in: config, network and tokenizer as one `Model`, what `gorae.load` returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from gorae.checkpoint.folder import settle
from gorae.checkpoint.gguf_read import read_gguf, text_tokenizer
from gorae.checkpoint.hub import resolve
from gorae.checkpoint.placed import place
from gorae.checkpoint.quantised import are_quantised, read_bits, told
from gorae.checkpoint.shards import read_published
from gorae.checkpoint.weights import fill_network, read_network
from gorae.config import ModelConfig, from_published
from gorae.model import Network, made_fast
from gorae.text import Tokenizer

Held = Literal["stored", "float32", "bfloat16"]
Mode = Literal["exact", "fast"]
MATRICES = {"stored": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}  # of a network that learns


@dataclass(frozen=True)
class Model:
    """A network ready to run, its config, and its tokenizer (None where the folder has none)."""

    network: Network
    config: ModelConfig
    tokenizer: Tokenizer | None

    @torch.no_grad()
    def logits(self, token_ids: list[int]) -> Tensor:
        """float32 logits [T, W]: row t scores what follows token t."""
        ids_T = torch.tensor(token_ids, dtype=torch.long, device=self.network.device)
        if ids_T.numel() and not 0 <= int(ids_T.min()) <= int(ids_T.max()) < self.config.vocab_size:
            raise ValueError(
                f"token_ids from {int(ids_T.min())} to {int(ids_T.max())} do not all lie between 0 and "
                f"vocab_size - 1 = {self.config.vocab_size - 1}; encode the text with this model's tokenizer"
            )
        return self.network.logits(self.network(ids_T[None]).hidden_BTD[0])


def load(
    path: str | PathLike[str],
    mode: Mode | None = None,
    *,
    weights: Held = "stored",
    device: str | torch.device = "cpu",
) -> Model:
    """Load a folder or a Hugging Face id, with config.json and safetensors, or a GGUF file.

    `mode` "fast" is what weights quantised to 4 or 8 bits are for, with latent attention in its absorbed form; "exact"
    takes all others and has the bits of training; None chooses by the weights. In fast mode, weights that are not
    quantised are used as they are.

    "stored" `weights` stay as the folder has them, FP8 and panels too: they are mapped, and a page is read when it is
    first used. Such a network computes and does not learn. "float32" makes them parameters in memory, as those of a
    GGUF file always become; both compute the same bits. "bfloat16" does too, with matrices rounded to half the bytes
    unless they are stored so.

    On a `device` other than the CPU the weights lie in its memory, and the reference computes.

    The network is in evaluation mode. Raises ValueError, naming the file and what is wrong with it. A folder whose
    config.json has MTP modules and whose weights have none at all loads without them: logits do not depend on them.
    """
    if mode is not None and mode not in get_args(Mode):
        raise ValueError(f"mode={mode!r} must be one of {', '.join(map(repr, get_args(Mode)))}, or None")
    if weights not in get_args(Held):
        raise ValueError(f"weights={weights!r} must be one of {', '.join(map(repr, get_args(Held)))}")
    settle(Path(path).resolve())
    found = resolve(path)
    if not found.is_dir() and found.suffix != ".gguf":
        raise ValueError(f"{path} is not a folder; give one with config.json and model.safetensors, or a .gguf file")
    network, tokenizer = _from_folder(found, mode, weights) if found.is_dir() else _from_gguf(found, weights)
    require_fitting(tokenizer, network.config, found)
    if mode == "fast" and not network.is_fast:
        made_fast(network)
    if torch.device(device).type != "cpu":
        place(network, torch.device(device))
    return Model(network.eval(), network.config, tokenizer)


def _from_folder(folder: Path, mode: Mode | None, weights: Held) -> tuple[Network, Tokenizer | None]:
    published, file = read_published(folder), folder / "config.json"
    config, bits = config_of(published, file), bits_in(published, file)
    if are_quantised(bits) and (mode == "exact" or weights != "stored"):
        given = "mode='exact'" if mode == "exact" else f"weights='{weights}'"
        raise ValueError(
            f"{folder} holds weights quantised to {told(bits)}, which {given} can not have: load it as it is, load the "
            "checkpoint it was made from, or widen it with gorae convert --to bf16 or f32"
        )
    network = read_network(folder, config, bits=bits, keep=weights == "stored", matrices=MATRICES[weights])
    return network, _tokenizer_in(folder)


def load_tokenizer(path: str | PathLike[str]) -> Tokenizer | None:
    """The tokenizer that `load` gives a model, without the model."""
    found = resolve(path)
    return _tokenizer_in(found) if found.is_dir() else text_tokenizer(read_gguf(found))


def _tokenizer_in(folder: Path) -> Tokenizer | None:
    return Tokenizer.load(folder) if (folder / "tokenizer.json").is_file() else None


def _from_gguf(path: Path, weights: Held) -> tuple[Network, Tokenizer | None]:
    file = read_gguf(path)
    try:
        return fill_network(from_published(file.published), file.tensors, MATRICES[weights]), text_tokenizer(file)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def require_fitting(tokenizer: Tokenizer | None, config: ModelConfig, folder: Path) -> None:
    """Raise ValueError if the tokenizer has ids that the network can not embed."""
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens and the network vocab_size={config.vocab_size};"
            " use the tokenizer the network was trained with"
        )


def config_of(published: Mapping[str, Any], file: Path) -> ModelConfig:
    """`from_published`, whose ValueError then names the file that says so."""
    try:
        return from_published(published)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def bits_in(published: Mapping[str, Any], file: Path) -> dict[str, int]:
    """`read_bits`, whose ValueError then names the file that says so."""
    try:
        return read_bits(published)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
