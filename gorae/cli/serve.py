"""Serve a model: an OpenAI-compatible API under /v1 and a chat page at /.

Binds to this machine alone unless --serve.host says otherwise.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from gorae.config import CacheType
from gorae.recipes import ServeSettings, serve_model

EXAMPLE = "gorae serve runs/laptop/rl/model --serve.port 8080"


@dataclass(frozen=True)
class Settings:
    serve: ServeSettings = ServeSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="folder, Hugging Face id or .gguf file, with its tokenizer")
    parser.add_argument(
        "--cache-type",
        choices=get_args(CacheType),
        help="of what is remembered of a quantised model: bfloat16 (default), or int8 in about half the memory",
    )
    parser.add_argument(
        "--prefix-folder", type=Path, help="keep what has been read here too, for when the server is started again"
    )
    parser.set_defaults(settings=Settings())


def run(args: argparse.Namespace) -> None:
    serve_model(args.model, args.settings.serve, cache_type=args.cache_type, prefix_folder=args.prefix_folder)
