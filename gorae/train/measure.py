"""How well a network predicts text it has not seen."""

import math

import numpy as np
import torch

from gorae.model import Network
from gorae.text import Tokenizer
from gorae.train.loss import token_log_probs


@torch.no_grad()
def bits_per_byte(network: Network, rows: np.ndarray, tokenizer: Tokenizer) -> float:
    """Bits a byte of the text in packed rows [N, T], so that models with different tokenizers can be compared."""
    token_ids_BT = torch.from_numpy(rows.astype(np.int64)).to(network.device)
    targets_N = token_ids_BT[:, 1:].flatten()
    log_probs_N = token_log_probs(network, network(token_ids_BT[:, :-1]).hidden_BTD.flatten(0, 1), targets_N)
    num_bytes = len(tokenizer.bytes_of(targets_N.tolist()))
    return -log_probs_N.double().sum().item() / math.log(2) / num_bytes
