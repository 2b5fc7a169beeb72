"""Log-probabilities that requests ask for: the likeliest tokens of a place, and those of every token of a prompt.

The head is asked for a few places of a prompt at a time: a long prompt times a large vocabulary would not fit.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gorae.engine.passage import Part
from gorae.engine.request import Request

HEAD_NUMBERS = 2**22  # log-probabilities in memory at once: 16 MB of them

Head = Callable[[Tensor], Tensor]  # features [N, D] to log-probabilities [N, W]


def likeliest(log_probs_NW: Tensor, num_tokens: int) -> list[dict[int, float]]:
    """The likeliest tokens of each row with their log-probabilities, the likeliest first."""
    found = log_probs_NW.topk(num_tokens)
    rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [dict(zip(ids, values, strict=True)) for ids, values in rows]


@torch.inference_mode()
def note_prompt(requests: Sequence[Request], part: Part, head: Head, *, vocab_size: int) -> None:
    """Give requests with one and the same sequence, read on by `part`, the log-probabilities of their prompts."""
    asking = [request for request in requests if request.lacks_prompt_logprobs]
    end = max([len(request.prompt_ids) - 1 for request in asking], default=0)  # nothing follows a prompt's last token
    hidden_TD = part.hidden_TD[: max(0, end - part.start)]
    num_places = max(1, HEAD_NUMBERS // vocab_size)
    for first in range(0, len(hidden_TD), num_places):
        log_probs_NW = head(hidden_TD[first : first + num_places])
        for request in asking:
            note_places(request, part.start + first, log_probs_NW)


def note_places(request: Request, start: int, log_probs_NW: Tensor) -> None:
    """Keep what rows say of the prompt's tokens from the one after `start` on."""
    following = torch.tensor(request.prompt_ids[start + 1 : start + 1 + len(log_probs_NW)], dtype=torch.long)
    of_prompt_NW = log_probs_NW[: len(following)]
    request.prompt_logprobs += of_prompt_NW.gather(-1, following[:, None])[:, 0].tolist()
    if request.params.prompt_logprobs:
        request.prompt_top_logprobs += likeliest(of_prompt_NW, request.params.prompt_logprobs)
