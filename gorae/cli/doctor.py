"""Say what this machine has, what is missing and what that costs.

Nouns: a `Finding` is one line about the machine; its `cost` says what its absence means. It measures matrix products
for about two seconds and reads everything else; it changes nothing. Torch is imported by name, since a machine without
it is one of the things to report.
"""

import argparse
import json
import os
import platform
import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gorae import __version__
from gorae.observe import control_group_texts, memory_bytes, processor_name

EXAMPLE = "gorae doctor --json"

_INSTRUCTION_SETS = {
    "AVX2": ("avx2",),
    "FMA": ("fma",),
    "F16C": ("f16c",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "BF16": ("avx512_bf16", "bf16"),
    "AMX": ("amx_tile",),
    "NEON": ("asimd", "neon"),
    "SVE": ("sve",),
}


@dataclass(frozen=True)
class Finding:
    """One thing the machine has or lacks. `value` is None where it lacks it; `cost` is one sentence or empty."""

    name: str
    value: str | None
    cost: str = ""
    required: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the findings as JSON, for machines")


def run(args: argparse.Namespace) -> int:
    """Print the findings; the exit status is 1 where something required is missing."""
    findings = examine()
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        _print(findings)
    return int(any(finding.required and finding.value is None for finding in findings))


def examine() -> list[Finding]:
    """Everything Gorae would like to know about this machine, in the order it is printed."""
    num_cores, torch = usable_cores(), _torch()
    findings = [
        Finding("gorae", f"{__version__} in {Path(__file__).parents[1]}"),
        Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", required=True),
        *_required_packages(),
        Finding("processor", processor_name()),
        Finding("cores usable", _cores(num_cores)),
        _instruction_sets(),
        Finding("memory", _memory()),
        Finding("disk free", f"{_gigabytes(shutil.disk_usage('.').free)} in {Path.cwd()}"),
        _compiler(),
        _reasoning_gym(),
    ]
    if torch is None:
        return findings
    return [
        *findings,
        _code_sandbox(),
        _kernels(),
        _gpu(torch),
        _device(),
        _threads(torch, num_cores),
        *_products(torch),
    ]


def usable_cores() -> float:
    """Cores this process may use: its affinity, cut by the CPU quota of its control groups."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(affinity), *_quotas()])


def instruction_sets(cpuinfo: str, machine: str) -> list[str]:
    """The instruction sets Gorae's kernels care about, of those /proc/cpuinfo lists as `flags` or `Features`."""
    flags: set[str] = {"neon"} if machine in ("arm64", "aarch64") else set()  # part of every 64-bit Arm
    for line in cpuinfo.splitlines():
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags.update(values.split())
    return [name for name, spellings in _INSTRUCTION_SETS.items() if not flags.isdisjoint(spellings)]


def _quotas() -> list[float]:
    """CPU quotas in cores, of control groups version 2 and 1."""
    limits = [text.split() for text in control_group_texts("cpu.max")]
    limits.append([_text(Path(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us")).strip() for name in ("quota", "period")])
    return [int(limit[0]) / int(limit[1]) for limit in limits if len(limit) == 2 and limit[0].isdigit()]


def _torch() -> Any:
    return import_module("torch") if find_spec("torch") else None


def _required_packages() -> list[Finding]:
    try:
        requirements = metadata.requires("gorae") or []
    except metadata.PackageNotFoundError:
        cost = "gorae is not installed here: run make setup or pip install gorae"
        return [Finding("packages", None, cost, required=True)]
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in requirements if "extra ==" not in line]
    missing = [name for name in names if _version(name) is None]
    cost = f"nothing runs without {', '.join(missing)}: run make setup or pip install them" if missing else ""
    value = None if missing else f"all {len(names)} that are required"
    return [Finding("packages", value, cost, required=True), Finding("torch", _version("torch"), required=True)]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cores(num_cores: float) -> str:
    present = os.cpu_count() or 1
    return f"{num_cores:g}" if num_cores == present else f"{num_cores:g} of {present}"


def _instruction_sets() -> Finding:
    found = instruction_sets(_cpuinfo(), platform.machine())
    fast = {"AVX2", "NEON"} & set(found)
    cost = "" if fast else "no AVX2 or NEON: matrix products run several times slower than on a common processor"
    return Finding("instruction sets", ", ".join(found) or None, cost)


def available_memory() -> int:
    """Bytes this process could still take, the limits of its control groups kept; all there is where none says."""
    return memory_bytes()[0]


def _memory() -> str:
    available, total = memory_bytes()
    return f"{_gigabytes(available)} available of {_gigabytes(total)}"


def _compiler() -> Finding:
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    found = next((path for path in map(shutil.which, wanted) if path), None)
    return Finding(
        "C++ compiler", found, "" if found else "no C++ compiler: Gorae runs without, on plain torch kernels"
    )


def _kernels() -> Finding:
    in_use = import_module("gorae.kernels").kernels_in_use()
    cost = {
        "reference": "no compiled kernels in use: as exact, but slower; install a C++ compiler, then run make setup",
        "portable": "no kernels for this processor's instruction set yet: as exact, but slower",
    }
    return Finding("kernels", in_use if in_use == "reference" else f"compiled, {in_use}", cost.get(in_use, ""))


def _code_sandbox() -> Finding:
    tasks = import_module("gorae.tasks")
    try:
        found = tasks.protections()
    except OSError as error:
        return Finding("code sandbox", None, f"code as an answer is refused: {error}")
    if found.enough:
        return Finding("code sandbox", str(found))
    return Finding("code sandbox", None, f"code as an answer is refused, for in force would be {found}")


def _reasoning_gym() -> Finding:
    cost = "no reasoning-gym: the evidence run has no line for it; pip install 'gorae[reasoning-gym]'"
    version = _version("reasoning-gym")
    return Finding("reasoning-gym", version, "" if version else cost)


def _gpu(torch: Any) -> Finding:
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return Finding("GPU", ", ".join(f"{device.name}, {_gigabytes(device.total_memory)}" for device in devices))
    if any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists():
        return Finding("GPU", None, f"a GPU is there, but torch {torch.__version__} can not use it: it stays idle")
    return Finding("GPU", None, "no GPU: training stays on the CPU; the laptop recipe needs none")


def _device() -> Finding:
    """Where `gorae tune --task` computes unless it is told otherwise."""
    device = import_module("gorae.kernels").choose_device()
    return Finding("tunes on", str(device), "" if device.type == "cpu" else "--device cpu keeps it on the processor")


def _threads(torch: Any, num_cores: float) -> Finding:
    threads, cores = torch.get_num_threads(), max(1, int(num_cores))
    if threads > cores:
        return Finding("threads", str(threads), f"more threads than cores wait for each other: OMP_NUM_THREADS={cores}")
    cost = f"{threads} of {cores} cores work: unset OMP_NUM_THREADS to use all" if threads < cores else ""
    return Finding("threads", str(threads), cost)


def _products(torch: Any) -> list[Finding]:
    """Measured matrix products, and the sentence their ratio asks for."""
    float32 = _gigaflops_per_second(torch, torch.float32, seconds=1.5)
    bfloat16 = _gigaflops_per_second(torch, torch.bfloat16, seconds=0.5)
    slower = float32 / bfloat16
    cost = f"{slower:.0f}x slower than float32 here, so Gorae trains in float32" if slower > 1.5 else ""
    return [
        Finding("float32 products", f"{float32:.0f} GFLOP/s"),
        Finding("bfloat16 products", f"{bfloat16:.3g} GFLOP/s", cost),
    ]


def _gigaflops_per_second(torch: Any, dtype: Any, *, seconds: float) -> float:
    """The best rate of square products; the size doubles from 128 while one product stays a small part of the time."""
    best, size, start = 0.0, 128, time.perf_counter()
    left = torch.randn(size, size).to(dtype)
    while time.perf_counter() - start < seconds:
        began = time.perf_counter()
        torch.mm(left, left)
        spent = time.perf_counter() - began
        best = max(best, 2 * size**3 / spent / 1e9)
        if spent < seconds / 100 and size < 2048:
            size *= 2
            left = torch.randn(size, size).to(dtype)
    return best


def _print(findings: list[Finding]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for finding in findings:
        mark = "[green]✓[/]" if finding.value else "[red]✗[/]" if finding.required else "[yellow]–[/]"
        value = "" if finding.value is None else escape(finding.value)
        cost = f"[yellow]{escape(finding.cost)}[/]" if finding.cost else ""
        table.add_row(mark, finding.name, "\n".join(part for part in (value, cost) if part))
    Console(file=sys.stdout).print(table)


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"


def _cpuinfo() -> str:
    return _text(Path("/proc/cpuinfo"))


def _text(path: Path) -> str:
    """The file's text; empty where this system has no such file."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""
