"""Memory that the system does not give: told apart from other errors, and named with the request it was for."""

ALLOCATOR_SAYS = "can't allocate memory"  # PyTorch's, on a CPU, in a RuntimeError


class ShortageError(MemoryError):
    """There was no memory for a request even alone; the engine has dropped it and goes on with the others."""

    def __init__(self, message: str, request_id: int) -> None:
        super().__init__(message)
        self.request_id = request_id


def is_shortage(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or ALLOCATOR_SAYS in str(error)
