"""The kernels for Arm, compiled for it and run under an emulator here: bits that every processor gives."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = ROOT / "gorae/kernels"
FLAGS = ["-std=c++17", "-O2", "-fno-strict-aliasing", "-ffp-contract=off", "-fopenmp", f"-I{HERE}"]


def results_of(compiler: str, runner: list[str], name: str, folder: Path) -> list[str]:
    """What instruction_sets.cc says of the set in `name`.cc, a line an operation."""
    sources = [Path(__file__).with_name("instruction_sets.cc"), HERE / f"{name}.cc", HERE / "portable.cc"]
    program = folder / name
    subprocess.run([compiler, *FLAGS, "-static", f"-DSET={name}_operations", *sources, "-o", program], check=True)
    done = subprocess.run([*runner, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


@pytest.mark.slow
def test_arm_gives_every_operation_the_bits_it_has_on_any_processor(tmp_path):
    compiler, emulator = "aarch64-linux-gnu-g++", "qemu-aarch64"
    missing = [tool for tool in (compiler, emulator) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)}: apt-get install g++-aarch64-linux-gnu qemu-user")
    on_arm = results_of(compiler, [emulator], "neon", tmp_path)
    assert len(on_arm) == 23
    assert all(" 0 differ" in line for line in on_arm)
    here = {"x86_64": "avx2", "aarch64": "neon"}.get(platform.machine())
    if here is not None and shutil.which("g++"):
        assert results_of("g++", [], here, tmp_path) == on_arm
