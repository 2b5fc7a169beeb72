"""Multiply-adds by the compiled loop (cpu.cc)."""

from typing import Any

import torch

ROUNDS = 1 << 18
FLOPS_A_ROUND = 2 * 12 * 8
BYTE_ROUNDS = 1 << 16
BYTE_OPERATIONS_A_ROUND = 2 * 12 * 64


def multiply_add_cpu(native: Any) -> float:
    threads = torch.get_num_threads()
    results = torch.empty(threads)
    native.multiply_add(ROUNDS, results.data_ptr(), threads)
    return float(threads * ROUNDS * FLOPS_A_ROUND)


def multiply_add_bytes_cpu(native: Any) -> float:
    threads = torch.get_num_threads()
    results = torch.empty(threads)
    native.multiply_add_bytes(BYTE_ROUNDS, results.data_ptr(), threads)
    return float(threads * BYTE_ROUNDS * BYTE_OPERATIONS_A_ROUND)
