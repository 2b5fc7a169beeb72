"""The operations the network is made of, one folder each: a typed door, and a `reference.py` that is the definition.

Exactness (the second law) starts here: a row's result never depends on how many rows stand beside it. The reference
gets this from PyTorch by padding every product to whole tiles of `TILE_ROWS` rows and `TILE_KEYS` keys. A folder with a
`cpu.cc` has compiled kernels too, which keep one order of summation; backend.py says which of the two runs.
"""

from gorae.kernels.attention import attention, cached_attention
from gorae.kernels.backend import kernels_in_use
from gorae.kernels.byte_rows import byte_rows, row_bytes, row_width, wide_rows
from gorae.kernels.device import choose_device, name_of
from gorae.kernels.experts import expert_mlp
from gorae.kernels.gated_mlp import gated_mlp
from gorae.kernels.head_linear import head_linear
from gorae.kernels.linear import linear
from gorae.kernels.log_softmax import cut_log_softmax, log_softmax
from gorae.kernels.paged_attention import paged_attention
from gorae.kernels.panels import LAYOUT, PANEL, PANEL_BITS, Panels, pack, panel_bytes, unpack
from gorae.kernels.peak import multiply_add, multiply_add_bytes
from gorae.kernels.recording import Arena, Recording
from gorae.kernels.rms_norm import rms_norm
from gorae.kernels.rotary import rotary_angles, rotate
from gorae.kernels.routing import Routing, expert_load, expert_weights, route
from gorae.kernels.sigmoid import sigmoid
from gorae.kernels.swiglu import swiglu
from gorae.kernels.tiles import TILE_KEYS, whole_pages
from gorae.kernels.weights import BLOCK, BlockScaled, HeldExperts, Weight, bands, whole

__all__ = [
    "BLOCK",
    "LAYOUT",
    "PANEL",
    "PANEL_BITS",
    "TILE_KEYS",
    "Arena",
    "BlockScaled",
    "HeldExperts",
    "Panels",
    "Recording",
    "Routing",
    "Weight",
    "attention",
    "bands",
    "byte_rows",
    "cached_attention",
    "choose_device",
    "cut_log_softmax",
    "expert_load",
    "expert_mlp",
    "expert_weights",
    "gated_mlp",
    "head_linear",
    "kernels_in_use",
    "linear",
    "log_softmax",
    "multiply_add",
    "multiply_add_bytes",
    "name_of",
    "pack",
    "paged_attention",
    "panel_bytes",
    "rms_norm",
    "rotary_angles",
    "rotate",
    "route",
    "row_bytes",
    "row_width",
    "sigmoid",
    "swiglu",
    "unpack",
    "whole",
    "whole_pages",
    "wide_rows",
]
