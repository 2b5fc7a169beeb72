"""Multiply-adds by the compiled loops (cpu.cc)."""

from typing import Any

import torch

ROUNDS = 1 << 18
FLOPS_A_ROUND = 2 * 12 * 8


def multiply_add_bytes_cpu(native: Any) -> float:
    threads = torch.get_num_threads()
    results = torch.empty(threads)
    return 2.0 * threads * native.multiply_add_bytes(ROUNDS, results.data_ptr(), threads)


def multiply_add_cpu(native: Any) -> float:
    threads = torch.get_num_threads()
    results = torch.empty(threads)
    native.multiply_add(ROUNDS, results.data_ptr(), threads)
    return float(threads * ROUNDS * FLOPS_A_ROUND)
