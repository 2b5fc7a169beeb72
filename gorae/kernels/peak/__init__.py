"""The most multiply-adds this processor does, with nothing else to do.

No operation of the network: what the rates of others are held against.
"""

from gorae.kernels.backend import native_for
from gorae.kernels.peak.cpu import multiply_add_bytes_cpu, multiply_add_cpu
from gorae.kernels.peak.reference import multiply_add_reference


def multiply_add() -> float:
    """Do float32 multiply-adds on all threads for some milliseconds; returns how many FLOPs these were."""
    native = native_for()
    return multiply_add_reference() if native is None else multiply_add_cpu(native)


def multiply_add_bytes() -> float:
    """The same with integers of 8 bits, which panels are multiplied with; with nothing compiled, float32 serves."""
    native = native_for()
    return multiply_add_reference() if native is None else multiply_add_bytes_cpu(native)
