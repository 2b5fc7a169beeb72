"""What tests of several rooms need."""

import gc
import os
from collections.abc import Callable

import pytest


@pytest.fixture
def require_fork() -> Callable[[], None]:
    """Ray forks, and a process in which many tests have left large caches may be refused that."""

    def require_fork() -> None:
        gc.collect()
        try:
            child = os.fork()
        except OSError:
            pytest.skip("this process has grown too large to be forked; run this file alone")
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    return require_fork
