import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import transformers

from gorae.config import ModelConfig
from gorae.model import Network
from gorae.text import Tokenizer

# No two widths alike, and none at a default, so that a swapped tensor shows.
SMALL = ModelConfig(
    vocab_size=331,
    model_dim=20,
    num_layers=3,
    num_heads=2,
    query_rank=14,
    latent_dim=12,
    nope_dim=10,
    rope_dim=6,
    value_dim=8,
    dense_dim=28,
    expert_dim=9,
    num_experts=8,
    num_active_experts=3,
    num_shared_experts=2,
    num_expert_groups=4,
    num_active_groups=2,
    num_dense_layers=1,
    routing_scale=2.5,
    num_mtp_modules=2,
    init_std=0.3,
)


@pytest.fixture
def config() -> ModelConfig:
    return SMALL


@pytest.fixture
def network(config: ModelConfig) -> Network:
    return randomised(Network(config), seed=1)


@pytest.fixture
def other_network(config: ModelConfig) -> Network:
    return randomised(Network(config), seed=2)


def randomised(network: Network, *, seed: int) -> Network:
    """Draw norms and router biases too, which a new network has at ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    network.draw_weights(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith(("norm_D", "norm_Q", "norm_C", "bias_E")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["고래는 바다에 산다", "鲸鱼住在海里", "whales live in the sea 123"] * 5, vocab_size=300)


@pytest.fixture
def token_ids(config: ModelConfig) -> list[int]:
    return torch.randint(config.vocab_size, (23,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.fixture
def quiet() -> Iterator[None]:
    """The judge's log and progress bars are not ours to judge; its Python warnings stay errors."""
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()
    transformers.utils.logging.set_verbosity(level)


@pytest.fixture
def serve_hub():
    """Folder, id → the address of a hub that has the folder under the id, in two revisions, and what is asked of it."""
    return hub


@contextmanager
def hub(folder: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    commits = {"main": "a" * 40, "v1": "b" * 40}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            held = sorted(folder.iterdir())
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) == name:
                if parts[4:5] == ["tree"]:
                    files = [
                        {"type": "file", "path": path.name, "oid": "0", "size": path.stat().st_size} for path in held
                    ]
                    self.answer(200, json.dumps(files).encode(), Content_Type="application/json")
                    return
                commit = commits.get(parts[5] if len(parts) > 5 else "main", parts[-1])
                siblings = [{"rfilename": path.name} for path in held]
                listing = {"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": []}
                self.answer(200, json.dumps(listing).encode(), Content_Type="application/json")
            elif parts[2:3] == ["resolve"] and (folder / parts[-1]).exists():
                asked.append(parts[-1])
                body = (folder / parts[-1]).read_bytes()
                etag = hashlib.sha256(body).hexdigest()
                self.answer(200, body, ETag=f'"{etag}"', X_Repo_Commit=parts[3])
            else:
                self.answer(404, b"{}", X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
