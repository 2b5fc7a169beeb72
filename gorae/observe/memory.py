"""How much memory this process could still take, as the system and its control groups tell."""

import os
from pathlib import Path


def memory_bytes() -> tuple[int, int]:
    """Bytes available and bytes in all, the limits of control groups kept; all there is where none says."""
    sizes = dict(line.split(":") for line in _text(Path("/proc/meminfo")).splitlines())
    if "MemAvailable" not in sizes:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total
    present, available = (int(sizes[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    limits = [*control_group_texts("memory.max"), _text(Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))]
    total = min([present, *(int(limit) for limit in limits if limit.strip().isdigit())])
    return min(available, total), total


def control_group_texts(name: str) -> list[str]:
    """The file `name` of this process's control group (version 2) and of every group around it."""
    root = Path("/sys/fs/cgroup")
    groups = [line.removeprefix("0::/") for line in _text(Path("/proc/self/cgroup")).splitlines() if line[:4] == "0::/"]
    folder = root / groups[0] if groups else root
    return [_text(parent / name) for parent in (folder, *folder.parents)]


def _text(path: Path) -> str:
    """The file's text; empty where this system has no such file."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""
