"""Where a run takes place: processor, threads, versions, commit."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from gorae.observe import processor_name


def describe_machine() -> dict[str, Any]:
    return {
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
    }


def current_commit() -> str | None:
    """The commit of the checkout this runs from, None where it is not a checkout; "-dirty" marks changes."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return answer.stdout.strip() or None
