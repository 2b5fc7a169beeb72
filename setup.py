"""The one part of the build that pyproject.toml cannot say: the compiled kernels, which are optional.

Where no C++ compiler is found, or it fails, the package is built without them and runs on plain PyTorch; so it does
where GORAE_KERNELS is `reference`.
"""

import os
import sys
from glob import glob

import nanobind
from setuptools import Extension, setup

HERE = "gorae/kernels"
# No -ffast-math and no contraction: the kernels say themselves where a product and a sum round once.
FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off"]
OPENMP = ["-fopenmp"] if sys.platform == "linux" else []  # the runtime that PyTorch's wheel for Linux brings

native = Extension(
    "gorae.kernels.native",
    sources=[f"{HERE}/{name}.cc" for name in ("native", "nanobind", "avx512", "avx2", "neon", "portable")],
    depends=[*glob(f"{HERE}/*.h"), *glob(f"{HERE}/*/*.cc")],
    include_dirs=[nanobind.include_dir(), nanobind.source_dir(), f"{nanobind.source_dir()}/../ext/robin_map/include"],
    extra_compile_args=FLAGS + OPENMP,
    extra_link_args=OPENMP,
    language="c++",
    optional=True,
)

setup(ext_modules=[] if os.environ.get("GORAE_KERNELS") == "reference" else [native])
