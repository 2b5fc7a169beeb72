import json

import pytest

from gorae.cli import doctor, main

INTEL = "processor: 0\nmodel name: A\nflags: fpu avx2 fma f16c avx512f avx512_vnni avx512_bf16 amx_tile\n"
ARM = "processor: 0\nFeatures: fp asimd bf16 sve\n"


measure = doctor._gigaflops_per_second


@pytest.fixture(autouse=True)
def without_measurement(monkeypatch):
    def pretend(torch, dtype, *, seconds):
        return {torch.float32: 100.0, torch.bfloat16: 1.0}[dtype]

    monkeypatch.setattr(doctor, "_gigaflops_per_second", pretend)


def test_doctor_says_what_is_there_and_ends_well(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for name in (
        "Python",
        "torch",
        "cores usable",
        "instruction sets",
        "memory",
        "disk free",
        "GPU",
        "tunes on",
        "C++ compiler",
        "code sandbox",
        "kernels",
    ):
        assert name in printed


def test_doctor_prints_json_for_machines(capsys):
    assert main(["doctor", "--json"]) == 0
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["float32 products"]["value"] == "100 GFLOP/s"
    assert findings["bfloat16 products"]["cost"] == "100x slower than float32 here, so Gorae trains in float32"
    assert findings["Python"]["required"]


def test_a_required_package_that_is_missing_is_named_and_fails(capsys, monkeypatch):
    installed = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "torch" else installed(name))
    monkeypatch.setattr(doctor, "_torch", lambda: None)
    assert main(["doctor"]) == 1
    assert "nothing runs without torch" in " ".join(capsys.readouterr().out.split())


def test_what_is_optional_has_a_cost_where_it_is_missing():
    for finding in doctor.examine():
        assert finding.value or finding.cost, f"{finding.name} is missing and nobody says what that costs"


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "names"),
    [
        (INTEL, "x86_64", ["AVX2", "FMA", "F16C", "AVX-512", "VNNI", "BF16", "AMX"]),
        (ARM, "aarch64", ["BF16", "NEON", "SVE"]),
        ("", "arm64", ["NEON"]),
        ("flags: fpu sse2\n", "x86_64", []),
    ],
)
def test_instruction_sets_are_read_from_cpuinfo(cpuinfo, machine, names):
    assert doctor.instruction_sets(cpuinfo, machine) == names


def test_a_quota_of_the_control_group_cuts_the_cores(monkeypatch):
    files = {"cpu.max": ["150000 100000\n", "max 100000\n", ""]}
    monkeypatch.setattr(doctor, "control_group_texts", files.__getitem__)
    assert doctor.usable_cores() <= 1.5


def test_more_threads_than_cores_and_idle_cores_are_told():
    class Torch:
        def __init__(self, threads):
            self.get_num_threads = lambda: threads

    assert "OMP_NUM_THREADS=2" in doctor._threads(Torch(8), 2.0).cost
    assert "1 of 2 cores work" in doctor._threads(Torch(1), 2.0).cost
    assert doctor._threads(Torch(2), 2.0).cost == ""


def test_products_are_measured():
    torch = pytest.importorskip("torch")
    assert measure(torch, torch.float32, seconds=0.01) > 0
