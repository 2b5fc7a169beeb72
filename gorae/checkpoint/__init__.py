"""Keeping a model: Hugging Face folders and GGUF files in and out, training state beside them.

Nouns: `Model`, which `load` returns; training state, which is named tensors and a few values. Published tensor names
live in `names.py`, those of GGUF in `gguf_names.py`. Knows no training and no request.
"""

from gorae.checkpoint.closeness import MOST_TOKENS, Closeness, compare
from gorae.checkpoint.convert import convert
from gorae.checkpoint.convert_gguf import convert_to_gguf
from gorae.checkpoint.convert_record import ConversionError
from gorae.checkpoint.folder import locked
from gorae.checkpoint.gguf_read import GgufFile, read_gguf
from gorae.checkpoint.gguf_write import write_gguf
from gorae.checkpoint.hub import resolve
from gorae.checkpoint.inspect import Inspection, inspect
from gorae.checkpoint.load import Held, Mode, Model, load, load_tokenizer
from gorae.checkpoint.quantise import quantise_again, quantised
from gorae.checkpoint.save import save_model
from gorae.checkpoint.shards import MAX_SHARD_BYTES
from gorae.checkpoint.state import load_state, save_state

__all__ = [
    "MAX_SHARD_BYTES",
    "MOST_TOKENS",
    "Closeness",
    "ConversionError",
    "GgufFile",
    "Held",
    "Inspection",
    "Mode",
    "Model",
    "compare",
    "convert",
    "convert_to_gguf",
    "inspect",
    "load",
    "load_state",
    "load_tokenizer",
    "locked",
    "quantise_again",
    "quantised",
    "read_gguf",
    "resolve",
    "save_model",
    "save_state",
    "write_gguf",
]
