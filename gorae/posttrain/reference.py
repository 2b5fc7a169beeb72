"""The policy that distance is measured from: the one learning began with, or the present one of every so many steps.

R1 took the present one every 400 steps (arXiv 2501.12948). A file keeps the last one taken, so that a run goes on after
a kill with the reference it had: its steps are saved where a reference is taken, or the other way round.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from gorae.checkpoint import load_state, save_state
from gorae.model import Network


@dataclass
class Reference:
    """`network` is the policy at `step`; where `every` is 0 that is the first, for good, and `path` is not written."""

    network: Network
    path: Path
    every: int
    step: int = 0

    @torch.no_grad()
    def follow(self, policy: Network, step: int) -> None:
        """Be the reference of `step`, whose policy is given before its update."""
        taken_at = step // self.every * self.every if self.every else 0
        if taken_at == self.step:
            return
        if taken_at == step:
            weights = policy.state_dict()
            save_state(self.path, weights, {"step": step})
        else:
            weights, values = load_state(self.path)
            assert values["step"] == taken_at, f"{self.path} is of step {values['step']}, and step {taken_at} is asked"
        self.network.load_state_dict(weights)
        self.step = taken_at
