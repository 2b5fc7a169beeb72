"""How much memory this process could still take and what a process holds, as the system and control groups tell."""

import os
from pathlib import Path
from typing import NamedTuple


class HeldMemory(NamedTuple):
    """Bytes of a process: `anonymous` are its own pages; `proportional` adds its share of pages of files and of others.

    Pages of mapped files can be dropped and read again, the anonymous ones can not.
    """

    anonymous: int
    proportional: int


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


def held_memory(process_id: int | str = "self") -> HeldMemory | None:
    """What a process holds now; None where the system does not say (only Linux does)."""
    lines = _text(Path(f"/proc/{process_id}/smaps_rollup")).splitlines()[1:]
    sizes = {name: 1024 * int(size.split()[0]) for name, _, size in (line.partition(":") for line in lines)}
    return HeldMemory(sizes["Anonymous"], sizes["Pss"]) if sizes else None


def control_group_texts(name: str) -> list[str]:
    """The file `name` of this process's control group (version 2) and of every group around it."""
    root = Path("/sys/fs/cgroup")
    groups = [line.removeprefix("0::/") for line in _text(Path("/proc/self/cgroup")).splitlines() if line[:4] == "0::/"]
    folder = root / groups[0] if groups else root
    return [_text(parent / name) for parent in (folder, *folder.parents)]


def _text(path: Path) -> str:
    """The file's text; empty where this system has no such file."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""
