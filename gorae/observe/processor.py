"""What the processor of this machine is called."""

import platform
from pathlib import Path


def processor_name() -> str:
    """As the operating system tells it; Linux keeps the readable name in /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
