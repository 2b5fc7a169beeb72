# Everything happens in .venv, pinned by constraints.txt. `make setup` needs Python 3.11 or newer, and network once;
# so does `make test-slow`, and a C++ compiler: the judge of GGUF files is compiled there. The rest works without
# network, from any folder (make -C) and any number of times.

# The first Python that is new enough; `make setup PYTHON=...` names another.
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11
PYTHON ?= $(shell for python in $(CANDIDATES); do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# Every pip sees the pins, also the one that builds a package in isolation: an unpinned torch brings gigabytes of CUDA.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

INSTALLED := .venv/installed
COMPILED := .venv/compiled
KERNELS := setup.py $(wildcard gorae/kernels/*.cc gorae/kernels/*.h gorae/kernels/*/*.cc)
JUDGE := .venv/llama-cpp

# llama.cpp as fast as it can be, for it is also the peer of benchmarks/serve.py, but without what neither calls. Where
# cmake and ninja are missing, pip brings them.
JUDGE_BUILD := -DCMAKE_PROJECT_llama_cpp_INCLUDE=$(CURDIR)/tests/checkpoint/llama_cpp.cmake -DLLAVA_BUILD=OFF \
	-DLLAMA_OPENSSL=OFF

.PHONY: setup run check test test-reference test-slow wheel

setup: $(INSTALLED) $(COMPILED)

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Gorae needs Python 3.11 or newer and found none as: $(CANDIDATES);" \
		"install one, or name it: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "PYTHON=$(PYTHON) is no Python 3.11 or newer; name one that is" >&2; exit 1; }
	@"$(PYTHON)" -m venv .venv || { echo "$(PYTHON) can not make a virtual environment;" \
		"on Debian and Ubuntu install its venv package, such as python3-venv" >&2; exit 1; }
	GORAE_KERNELS=reference .venv/bin/python -m pip install --editable '.[dev]'
	@touch $@

# Here rather than by pip, so that one sees it, and again whenever a kernel changes. Without a C++ compiler it warns and
# goes on: Gorae then runs on plain PyTorch.
$(COMPILED): $(KERNELS) | $(INSTALLED)
	rm -f gorae/kernels/native*.so
	.venv/bin/python setup.py --quiet build_ext --inplace
	@touch $@

$(JUDGE): $(INSTALLED)
	@for compiler in $$CXX c++ g++ clang++; do command -v $$compiler >/dev/null && exit 0; done; \
		echo "make test-slow compiles llama.cpp and found no C++ compiler (c++, g++, clang++);" \
		"install one, on Debian and Ubuntu with apt-get install g++" >&2; exit 1
	GORAE_KERNELS=reference CMAKE_ARGS="$(JUDGE_BUILD)" .venv/bin/python -m pip install --editable '.[dev,llama-cpp]'
	@touch $@

run: setup
	.venv/bin/gorae run laptop

check: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/pyright
	.venv/bin/lint-imports
	.venv/bin/pytest tests/test_house.py

test test-reference test-slow: export HF_HUB_OFFLINE := 1

# A process a core, each with one thread: two threads a process would wait for each other.
test test-reference: export OMP_NUM_THREADS := 1
test: setup
	.venv/bin/pytest -m "not slow" --numprocesses auto --dist loadgroup

# The rooms whose numbers the compiled kernels make, without them.
test-reference: setup
	GORAE_KERNELS=reference .venv/bin/pytest -m "not slow" --numprocesses auto \
		tests/kernels tests/model tests/engine tests/train tests/posttrain

test-slow: setup $(JUDGE)
	.venv/bin/pytest -m slow

# Built anew, since setuptools puts what an older build left behind into the wheel.
wheel: setup
	rm -rf build dist
	.venv/bin/python -m build --wheel --no-isolation
	.venv/bin/python .ci/smoke.py dist/*.whl
