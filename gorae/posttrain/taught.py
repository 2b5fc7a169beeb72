"""Distillation from logits: at every token of a reply, the student learns what the teacher would have said.

What is kept of the teacher is its last hidden state, not its logits, as DeepSeek-V4 does: model_dim numbers a token in
place of vocab_size. Nouns: a FeatureCache, those states on disk; a TaughtBatch, a batch with them. Token ids mean the
same to both sides, or nothing of this means anything.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from gorae.checkpoint import save_state
from gorae.data import Loader
from gorae.kernels import log_softmax
from gorae.model import Network
from gorae.posttrain.divergence import in_chunks, top_k_kl
from gorae.posttrain.sft import Example, training_row
from gorae.text import Tokenizer
from gorae.train import Batch, Loss, pad_batch

BLOCK = 64  # examples a file of features holds


@dataclass(frozen=True)
class TaughtBatch(Batch):
    """`features_NX` are the teacher's last hidden state before each token that carries weight, row by row."""

    features_NX: Tensor


@torch.no_grad()
def teacher_features(teacher: Network, batch: Batch) -> Tensor:
    """What the teacher's head needs to say what it expected in place of each token with weight: [N, X]."""
    return teacher(batch.token_ids_BT[:, :-1]).hidden_BTD[batch.weights_BT[:, 1:] != 0]


class FeatureCache:
    """The teacher's features of the replies of examples, in a folder: one safetensors file for every 64 examples.

    They are of the type that the network computes in, so its head makes the logits of them that it would have made.
    Raises ValueError for a folder that has those of other examples.
    """

    def __init__(self, folder: Path, examples: Sequence[Example]) -> None:
        self.folder, self.examples = folder, examples
        for block in set(self.blocks) - set(self.missing()):
            if self.values(block)["examples"] != self.fingerprint(block):
                raise ValueError(f"{self.path(block)} is of other examples; remove {folder} to begin anew")

    @property
    def blocks(self) -> range:
        return range(-(-len(self.examples) // BLOCK))

    def missing(self) -> list[int]:
        """Blocks that are not there yet."""
        return [block for block in self.blocks if not self.path(block).exists()]

    def path(self, block: int) -> Path:
        return self.folder / f"features-{block:06}.safetensors"

    def rows(self, block: int) -> list[Example]:
        return list(self.examples[block * BLOCK : (block + 1) * BLOCK])

    def fingerprint(self, block: int) -> str:
        return sha256(json.dumps([vars(one) for one in self.rows(block)]).encode()).hexdigest()

    def values(self, block: int) -> dict[str, Any]:
        with safe_open(self.path(block), framework="pt") as file:
            return json.loads(file.metadata()["values"])

    def write(self, block: int, features: Sequence[Tensor], flops: float) -> None:
        """Keep the features [T, X] of each of a block's replies, and what reading them took."""
        values = {"flops": flops, "examples": self.fingerprint(block)}
        save_state(self.path(block), {str(place): one.clone() for place, one in enumerate(features)}, values)

    def read(self, place: int) -> Tensor:
        """Features [T, X] of the reply of an example."""
        with safe_open(self.path(place // BLOCK), framework="pt") as file:
            return file.get_tensor(str(place % BLOCK))

    @property
    def flops(self) -> float:
        """What reading has taken, by all that is there."""
        return sum(self.values(block)["flops"] for block in set(self.blocks) - set(self.missing()))


def taught_batches(cache: FeatureCache, *, batch_size: int, seed: int, pad_id: int) -> Callable[[int], TaughtBatch]:
    """The batch of any step, drawn as those of `example_batches` are."""
    loader = Loader(len(cache.examples), batch_size, seed=seed)

    def batch(step: int) -> TaughtBatch:
        places = loader.batch(step)
        chosen = [cache.examples[place] for place in places]
        rows = pad_batch([training_row(one.prompt_ids, one.reply_ids) for one in chosen], pad_id)
        features_NX = torch.cat([cache.read(place) for place in places])
        return TaughtBatch(rows.token_ids_BT, rows.weights_BT, features_NX)

    return batch


def both_log_probs(student: Network, hidden_ND: Tensor, teacher: Network, features_NX: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N, W] of student and teacher over the student's tokens.

    Rows that only the teacher's head has are padding, which no tokenizer ever writes.
    """
    student_NW = log_softmax(student.logits(hidden_ND))
    with torch.no_grad():
        return student_NW, log_softmax(teacher.logits(features_NX)[:, : student_NW.shape[1]])


def logit_loss(network: Network, batch: Batch, *, teacher: Network, top_k: int = 0) -> Loss:
    """Mean over tokens of KL(teacher ‖ student), of the whole vocabulary or of the teacher's `top_k` and a bucket."""
    assert isinstance(batch, TaughtBatch), "distillation from logits needs the teacher's features; see taught_batches"
    features = network(batch.token_ids_BT[:, :-1])
    hidden_ND = features.hidden_BTD[batch.weights_BT[:, 1:] != 0]
    vocab_size = teacher.config.vocab_size

    def measure(hidden_ND: Tensor, features_NX: Tensor) -> Tensor:
        return top_k_kl(*both_log_probs(network, hidden_ND, teacher, features_NX), top_k=top_k or vocab_size)

    total = in_chunks(measure, hidden_ND, batch.features_NX, vocab_size=vocab_size).mean()
    return Loss(total, {"loss": total.item()}, features.routings)


def require_same_tokens(teacher: Tokenizer, student: Tokenizer) -> None:
    """Raise ValueError, naming the first that differs, unless every id is the same token to both."""
    for token_id in range(max(teacher.vocab_size, student.vocab_size)):
        pieces = [one.piece(token_id) if token_id < one.vocab_size else ("nothing", None) for one in (teacher, student)]
        if pieces[0] != pieces[1]:
            raise ValueError(
                f"token {token_id} is {pieces[0][0]!r} to the teacher and {pieces[1][0]!r} to the student, so what "
                "they expect can not be compared; distil from traces, which are text, or with a teacher that has this "
                "tokenizer"
            )
