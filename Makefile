# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Debian only; elsewhere the embedded broker is used and cross-compiled tests are skipped.
APT_PACKAGES := chromium mosquitto rabbitmq-server g++ g++-aarch64-linux-gnu qemu-user-static debootstrap
# The emulated boards' system and wheels, 1 GB; outside the tree, so that it is made once.
ARM ?= $(HOME)/.cache/flash-edge/arm

.PHONY: bench-proof bench-private bench-brokers bench-protocol bench-card docs demo test check types unit bench bench-train bench-export bench-architectures bench-formats bench-budget bench-page \
  fuzz fuzz-native test-native-graphs test-architectures fuzz-program chaos chaos-kinds wheels arm tools vendor clean

demo: $(VENV)/.coordinator   ## a whole federation on this machine, Ctrl-C and again resumes
	$(BIN)/flash-coordinator demo

test: tools $(VENV)/.dev check types unit   ## everything that CI runs

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

# Empty: Python keeps what it compiles of our modules, which hundreds of processes import.
unit: export PYTHONDONTWRITEBYTECODE =
unit: $(VENV)/.dev
	HYPOTHESIS_PROFILE=ci $(BIN)/pytest -q -m alone tests/federation
	# In the order of tests/conftest.py: xdist would begin the files with the fewest tests last.
	HYPOTHESIS_PROFILE=ci $(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder --durations=20 \
	  -m "not alone"

docs: $(VENV)/.dev   ## the documentation site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: bench-train bench-export bench-budget   ## figures; never gates

bench-train: $(VENV)/.dev
	mkdir -p bench
	$(BIN)/python tests/bench/bench_program.py --json bench/program.json

test-architectures: $(VENV)/.dev   ## models of other packages through the gates, a quarter of an hour
	$(BIN)/pip install torchvision 'timm>=1,<2' ultralytics
	$(BIN)/pip install --no-deps torchaudio
	FLASH_EDGE_ARCHITECTURES=1 $(BIN)/pytest -q tests/export/test_architectures.py

test-native-graphs: $(VENV)/.dev   ## 500 random graphs through the native runtime and onnxruntime
	FLASH_EDGE_GRAPHS=500 $(BIN)/pytest -q tests/export/test_native_operators.py -k random

bench-architectures: $(VENV)/.dev   ## pruned models of torchvision and timm beside dense onnxruntime and OpenVINO
	$(BIN)/pip install torchvision 'timm>=1,<2' ultralytics openvino nncf
	mkdir -p bench
	$(BIN)/python tests/bench/bench_architectures.py --formats native,native-int8,ort --json bench/architectures.json

bench-formats: $(VENV)/.dev   ## twenty models of other packages in every format, goes on where it was
	$(BIN)/pip install torchvision 'timm>=1,<2' ultralytics
	$(BIN)/pip install --no-deps torchaudio
	mkdir -p bench
	PYTHONPATH=tests $(BIN)/python tests/bench/bench_formats.py --json bench/formats.json

bench-export: $(VENV)/.dev
	mkdir -p bench
	$(BIN)/python tests/bench/bench_export.py --arm --json bench/export.json

bench-budget: $(VENV)/.dev
	$(BIN)/python tests/bench/bench_budget.py --engine program
	$(BIN)/python tests/bench/bench_budget.py --engine masked
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tests/bench/bench_device.py
	$(BIN)/python tests/bench/bench_straggler.py

bench-page: $(VENV)/.dev
	$(BIN)/python tests/bench/bench_page.py --json bench/page.json

bench-proof: $(VENV)/.dev   ## 10,000 forged proofs, and a run of 400 rounds proved and verified
	mkdir -p bench
	$(BIN)/python tests/bench/bench_proof.py --json bench/proof.json

bench-private: $(VENV)/.dev   ## membership inference; accuracy by epsilon where MNIST=FOLDER has the idx files, or WATCH=WHEEL is there
	mkdir -p bench
	$(BIN)/python tests/bench/bench_membership.py --json bench/membership.json
	[ -z "$(MNIST)" ] || $(BIN)/python tests/bench/bench_private.py --data $(MNIST) --json bench/private.json
	[ -z "$(WATCH)" ] || $(BIN)/python tests/bench/bench_private.py --watch $(WATCH) --json bench/private-watch.json

bench-card: $(VENV)/.dev   ## recovery and bytes into docs/benchmarks.md
	mkdir -p bench
	$(BIN)/python tests/bench/bench_recover.py --json bench/recover.json
	$(BIN)/python tests/bench/card.py --write

fuzz: $(VENV)/.dev   ## ten million mutated inputs for every decoder, some minutes
	$(BIN)/python tests/fuzz/fuzzer.py --inputs 10000000 --seed 1

fuzz-program: $(VENV)/.dev   ## a million mutants of programs as files, and of each family's plans under sanitizers
	PYTHONPATH=tests $(BIN)/python tests/fuzz/program_files.py --inputs 1000000 --seed 1
	PYTHONPATH=tests $(BIN)/python tests/fuzz/program_fuzzer.py --mutants 1000000 --seed 1

fuzz-native: $(VENV)/.dev   ## ten minutes of mutated native models under sanitizers, and a million quick mutants, two cores
	PYTHONPATH=tests $(BIN)/python tests/fuzz/native_fuzzer.py --seconds 600 --jobs 2 --seed 1
	PYTHONPATH=tests $(BIN)/python tests/fuzz/native_fuzzer.py --mutants 1000000 --jobs 2 --seed 1

bench-protocol: $(VENV)/.dev   ## scale and bytes of the real protocol; see docs/scale.md
	mkdir -p bench
	$(BIN)/python tests/bench/bench_protocol.py --json bench/protocol.json
	$(BIN)/python tests/bench/bench_wire.py --guarded --json bench/wire.json
	$(BIN)/python tests/bench/bench_codecs.py --json bench/codecs.json
	$(BIN)/python tests/bench/bench_signatures.py
	$(BIN)/python tests/bench/bench_evaluation.py --json bench/evaluation.json

bench-brokers: tools $(VENV)/.dev   ## runs through the limits of known brokers, time against mosquitto
	$(BIN)/python tests/bench/bench_brokers.py
	$(BIN)/python tests/bench/bench_brokers.py --cuts

chaos: tools $(VENV)/.dev   ## hours of faults: seeds on every broker, a kill at every durable write
	$(BIN)/python tests/chaos/everything.py --json bench/chaos.json

chaos-kinds: tools $(VENV)/.dev   ## kills over runs of every kind, beside quiet ones
	$(BIN)/python tests/chaos/everything.py --brokers --no-sweep --json bench/chaos-kinds.json

wheels: $(VENV)/.dev   ## with compiled kernels, for this machine and cross-compiled for ARM
	rm -rf dist
	# This machine's last: what a build compiles stays in the tree, for the tests.
	FLASH_EDGE_REQUIRE_KERNELS=1 FLASH_EDGE_TARGET=aarch64 \
	  FLASH_EDGE_WHEEL_PLATFORM=manylinux_2_28_aarch64 \
	  $(BIN)/python -m build -q --wheel --outdir dist
	FLASH_EDGE_REQUIRE_KERNELS=1 $(BIN)/python -m build -q --wheel --outdir dist

arm: tools wheels   ## the boards' processors, emulated: our wheel, its kernels, a real round
	PATH="$(abspath $(BIN)):$$PATH" sh tests/arm/prepare.sh $(ARM) dist/*aarch64.whl
	FLASH_EDGE_ARM=$(ARM) FLASH_EDGE_REQUIRE_ARM=1 $(BIN)/pytest -q -n 2 --durations=10 tests/arm

vendor: $(VENV)/.dev   ## the page's chart library anew, of the version that its README pins
	$(BIN)/python tests/vendored.py

tools:   # what a package index cannot give; skipped without apt or without root
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  missing=$$(dpkg-query -W -f '$${Package} $${Status}\n' $(APT_PACKAGES) 2>&1 \
	    | grep -v 'ok installed' || true); \
	  if [ -n "$$missing" ]; then \
	    apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      $(APT_PACKAGES) || echo "some tools are missing: their tests will be skipped"; \
	  fi; \
	fi
	@for folder in tests/export/web tests/examples/kotlin; do \
	  if command -v npm >/dev/null && [ ! -d $$folder/node_modules ]; then \
	    npm install --silent --no-audit --no-fund --prefix $$folder \
	      || echo "packages of $$folder are missing: its test will be skipped"; \
	  fi; \
	done

$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	touch $@

$(VENV)/.coordinator: $(VENV)/.pip pyproject.toml
	$(BIN)/python -m pip install -q -e '.[all]'
	touch $@

$(VENV)/.dev: $(VENV)/.pip pyproject.toml
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) run build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
