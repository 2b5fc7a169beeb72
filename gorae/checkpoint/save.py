"""A Hugging Face folder out, which transformers and `load` read: filled under another name, then put in place whole."""

import json
import re
from os import PathLike
from pathlib import Path

from gorae.checkpoint.folder import replacing
from gorae.checkpoint.load import require_fitting
from gorae.checkpoint.shards import INDEX, MAX_SHARD_BYTES, WEIGHTS
from gorae.checkpoint.weights import quantization, write_weights
from gorae.config import to_published
from gorae.model import Network
from gorae.text import Tokenizer

_OURS = {"config.json", "generation_config.json", WEIGHTS, INDEX, "tokenizer.json", "tokenizer_config.json"}
_SHARD = re.compile(r"model-\d{5,}-of-\d{5,}\.safetensors")


def save_model(
    folder: str | PathLike[str],
    network: Network,
    *,
    tokenizer: Tokenizer | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Save a network, and its tokenizer with the chat template, as the folder that `load` takes.

    Weights above `max_shard_bytes` go to several files of at most that size, and an index.
    A checkpoint already there is replaced in one step. Raises ValueError, before writing anything, if `folder` holds
    other files, which would be lost, or if the tokenizer has more tokens than the network.
    """
    folder = Path(folder).resolve()
    require_fitting(tokenizer, network.config, folder)
    _require_replaceable(folder)
    with replacing(folder) as partial:
        stored = quantization(network)
        published = to_published(network.config) | ({"quantization_config": stored} if stored else {})
        _write_json(partial / "config.json", published)
        _write_json(partial / "generation_config.json", _generation(network))
        write_weights(partial, network, max_shard_bytes=max_shard_bytes)
        if tokenizer is not None:
            tokenizer.save(partial)


def _generation(network: Network) -> dict:
    """What transformers samples with by default: the model's own distribution."""
    ids = {"bos_token_id": network.config.bos_id, "eos_token_id": network.config.eos_id}
    return {**ids, "do_sample": True, "temperature": 1.0, "top_p": 1.0}


def _require_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the name of a folder to save the model in")
    others = sorted(path.name for path in folder.iterdir() if not _is_ours(path.name))
    if others:
        raise ValueError(f"{folder} holds {', '.join(others)}, which saving a model there would remove; give another")


def _is_ours(name: str) -> bool:
    return name in _OURS or _SHARD.fullmatch(name) is not None


def _write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
