"""Sampling from the one model: requests in, tokens out, a step at a time."""

from gorae.engine.constrain import Constraint, ConstraintError
from gorae.engine.engine import Engine, Event, ServableModel
from gorae.engine.lines import DECODED, LINES, Line, Trial, obstacle, random_prompts
from gorae.engine.request import Output, Policy, SamplingParams
from gorae.engine.routings import Routings
from gorae.engine.shortage import ShortageError
from gorae.engine.spill import require_writable

__all__ = [
    "DECODED",
    "LINES",
    "Constraint",
    "ConstraintError",
    "Engine",
    "Event",
    "Line",
    "Output",
    "Policy",
    "Routings",
    "SamplingParams",
    "ServableModel",
    "ShortageError",
    "Trial",
    "obstacle",
    "random_prompts",
    "require_writable",
]
