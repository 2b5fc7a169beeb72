"""Sampling from the one model: requests in, tokens out, a step at a time."""

from gorae.engine.engine import Engine, Event, ServableModel
from gorae.engine.request import Output, SamplingParams
from gorae.engine.routings import Routings

__all__ = ["Engine", "Event", "Output", "Routings", "SamplingParams", "ServableModel"]
