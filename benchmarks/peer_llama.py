"""llama.cpp as a peer of benchmarks/serve.py, by its C interface: batches of tokens in, logits out.

Imports nothing of ours that brings PyTorch, whose memory would be counted as llama.cpp's.
"""

import random
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import llama_cpp
import numpy as np
from answer import answer

BATCH = 4096  # tokens at once at most
DECODED = 24  # as in gorae.engine
SPARE = 40  # places of a context that are not used


class LlamaPeer:
    def __init__(self, path: str, *, threads: int, repack: bool) -> None:
        self.threads = threads
        llama_cpp.llama_backend_init()
        wanted = llama_cpp.llama_model_default_params()
        wanted.use_extra_bufts = repack
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), wanted)
        assert self.model, f"llama.cpp does not load {path}"
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self.context: Any = None
        self.begin("load", depth=1, requests=1, is_prefill=True, turns=1)
        self.turn([[2]])
        self.end()

    def begin(
        self,
        line: str,
        *,
        depth: int,
        requests: int,
        is_prefill: bool,
        turns: int,
        flash: bool = True,
        micro_batch: int = 512,
    ) -> None:
        """A context with room for a line and so many turns, in case they go on one behind the other."""
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx = (depth + DECODED * turns + SPARE) * requests
        wanted.n_batch, wanted.n_ubatch, wanted.n_seq_max = BATCH, micro_batch, requests
        wanted.n_threads = wanted.n_threads_batch = self.threads
        wanted.flash_attn_type = 1 if flash else 0
        self.context = llama_cpp.llama_init_from_model(self.model, wanted)
        assert self.context, f"llama.cpp makes no context for {line}"
        self.is_prefill, self.goes_on = is_prefill, not is_prefill and turns > 1
        self.lengths, self.draw = [0] * requests, random.Random(line)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.read([[2, 2]] + [[2]] * (requests - 1))  # warm up
        self.forget()

    def turn(self, prompts: list[list[int]]) -> float:
        """The seconds of one turn, as `gorae.engine.Trial` takes it, but that random tokens are what goes on."""
        began = perf_counter()
        if not any(self.lengths):
            self.read(prompts)
        if not self.is_prefill:
            following = [[[self.draw.randrange(self.vocab_size)] for _ in prompts] for _ in range(DECODED)]
            began = perf_counter()
            for tokens in following:
                self.read(tokens)
        seconds = perf_counter() - began
        if not self.goes_on:
            self.forget()
        return seconds

    def end(self) -> None:
        llama_cpp.llama_free(self.context)
        self.context = None

    def logits(self, prompts: list[list[int]], file: str) -> None:
        """Write float32 [tokens, W] of all prompts, one after the other."""
        rows = []
        self.begin("logits", depth=max(map(len, prompts)), requests=1, is_prefill=True, turns=1)
        for prompt in prompts:
            self.compute([(token, place, 0, True) for place, token in enumerate(prompt)])
            found = llama_cpp.llama_get_logits(self.context)
            rows.append(np.ctypeslib.as_array(found, shape=(len(prompt), self.vocab_size)).copy())
            self.forget()
        self.end()
        np.save(file, np.concatenate(rows))

    def read(self, sequences: list[list[int]]) -> None:
        """Let every sequence go on with these tokens, and compute what follows the last of each."""
        tokens = [
            (token, self.lengths[number] + place, number, place == len(sequence) - 1)
            for number, sequence in enumerate(sequences)
            for place, token in enumerate(sequence)
        ]
        for first in range(0, len(tokens), BATCH):
            self.compute(tokens[first : first + BATCH])
        llama_cpp.llama_get_logits(self.context)  # waits for the computation
        for number, sequence in enumerate(sequences):
            self.lengths[number] += len(sequence)

    def compute(self, tokens: Sequence[tuple[int, int, int, bool]]) -> None:
        batch = self.batch
        for count, (token, place, number, is_wanted) in enumerate(tokens):
            batch.token[count], batch.pos[count] = token, place
            batch.n_seq_id[count], batch.seq_id[count][0] = 1, number
            batch.logits[count] = is_wanted
        batch.n_tokens = len(tokens)
        assert llama_cpp.llama_decode(self.context, batch) == 0, "llama.cpp failed to decode"

    def forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        self.lengths = [0] * len(self.lengths)


@llama_cpp.llama_log_callback
def say_nothing(*_: Any) -> None:
    pass


if __name__ == "__main__":
    llama_cpp.llama_log_set(say_nothing, None)
    answer(LlamaPeer)
