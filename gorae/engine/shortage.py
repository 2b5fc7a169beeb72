"""Memory that the system does not give: told apart from other errors, and named with the request it was for."""

import torch

from gorae.observe import memory_bytes

ALLOCATOR_SAYS = "can't allocate memory"  # PyTorch's, on a CPU, in a RuntimeError


class ShortageError(MemoryError):
    """There was no memory for a request even alone; the engine has dropped it and goes on with the others."""

    def __init__(self, message: str, request_id: int) -> None:
        super().__init__(message)
        self.request_id = request_id


def is_shortage(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or ALLOCATOR_SAYS in str(error)


def memory_of(device: torch.device) -> tuple[int, int]:
    """Bytes available and bytes in all, where the device keeps its tensors."""
    return torch.cuda.mem_get_info(device) if device.type == "cuda" else memory_bytes()
