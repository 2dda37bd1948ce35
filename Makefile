# The verbs of this repository. Each sets up what it needs and is quick the second time.
#   make serve   a real Triton and Tidegate in front of it, in the foreground (Ctrl-C stops both)
#   make test    all tests but the slow tier        make test-slow   the slow tier
#   make check   format, lint, types, layers        make bench       against nginx and Envoy (bench-quick: 3 minutes)
#   make soak    an hour of traffic and faults (SOAK_SECONDS=300: five minutes)
#   make models  train the example models again and compare
# PYTHON=/path/to/python3.11 picks the interpreter (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/dev.lock
SOURCES := $(shell find gateway governance kernels -name '*.pyx' -o -name '*.pxd' -o -name '*.hpp' -o -name '*.h' 2>/dev/null) setup.py pyproject.toml
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help venv triton serve test test-slow soak check format bench bench-quick bench-gate models lock clean docs fuzz fuzz-asan
.DEFAULT_GOAL := help

help:
	@sed -n '2,7s/^# *//p' Makefile

# The stamp holds what was installed: another lock, another interpreter or a changed extension installs again.
venv: $(VENV)/.stamp

$(VENV)/.stamp: $(LOCK) $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tidegate needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "==> creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@cmp -s $(LOCK) $(VENV)/.lock || { echo "==> installing dependencies (about a minute the first time)"; \
	  $(BIN)/python -m pip install --quiet --require-hashes -r $(LOCK) && cp $(LOCK) $(VENV)/.lock; }
	@echo "==> building the extensions and installing tidegate"
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

triton: venv
	@$(BIN)/tidegate triton install

serve: triton
	@exec $(BIN)/tidegate up deploy/local

# Most tests wait for processes: three at a time keep two cores busy. Files stay whole, for what they share, and in
# their order, in which the long ones come early.
JOBS ?= 3
GRPC_TESTS := $(addprefix tests/,e2e/test_protocol_grpc.py e2e/test_protocol_streams.py e2e/test_protocol_clients.py \
  e2e/test_tls_doors.py hostile/test_hostile.py)
test: triton
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

# Real backends and other model servers, each in an environment of its own (some GB the first time).
test-slow: triton
	$(BIN)/python tests/venv_fixture.py
	HYPOTHESIS_PROFILE=random $(BIN)/python -m pytest -m slow $(ARGS)
	@test -n "$(ARGS)" || { echo "==> gRPC on its other engine"; TIDEGATE_TEST_GRPC_ENGINE=grpcio $(BIN)/python -m pytest \
	  -m "not slow" -n $(JOBS) --dist loadfile $(GRPC_TESTS) -k "not http:"; }

# One hour; SOAK_SECONDS says otherwise. Ends with a table, and with 1 when something does not hold.
soak: triton
	PYTHONPATH=tests:tests/e2e $(BIN)/python -m soak

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --output-format concise .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml --ignore-missing-stub \
	  kernels.counters._counters_c kernels.drift._drift_c \
	  kernels.features._features_c kernels.groups._groups_c kernels.hashing._hmac_c \
	  kernels.tensors._scan_c kernels.tensors._parse_c kernels.tensors._format_c \
	  gateway._driven_c gateway.admission._window_c gateway.doors._fast_grpc_c gateway.doors._reading_c \
	  gateway.upstream._counts_c gateway.upstream._grpc_client_c gateway.upstream._line_c \
	  gateway.upstream._straight_c gateway.wire._by_heart_c gateway.wire._http2_c governance.audit._entry_c \
	  gateway.wire._infer_c gateway.wire._infer_write_c governance.audit._writer_c
	$(BIN)/lint-imports
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint $(shell find gateway governance kernels -name '*.pyx')

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Trains into a folder of its own and compares with what is committed; `ARGS=` trains in place.
models:
	@test -x .venv-models/bin/python || { echo "==> creating .venv-models"; $(PYTHON) -m venv .venv-models; }
	@cmp -s requirements/models.lock .venv-models/.lock || { echo "==> installing what training needs"; \
	  .venv-models/bin/python -m pip install --quiet --require-hashes -r requirements/models.lock && \
	  cp requirements/models.lock .venv-models/.lock; }
	.venv-models/bin/python -m training --check

bench: triton
	$(BIN)/python -m bench $(ARGS)

bench-quick: triton
	$(BIN)/python -m bench --quick $(ARGS)

# Blocks on instructions that callgrind counts, never on time: ARGS="--update", ARGS="--against main".
bench-gate: venv
	$(BIN)/python -m bench.gate $(ARGS)

# Coverage-guided fuzzing of every decoder, in an environment of its own: ARGS="--seconds 60 [TARGET...]".
fuzz: venv
	@test -x .venv-fuzz/bin/python || { echo "==> creating .venv-fuzz"; $(PYTHON) -m venv .venv-fuzz; }
	@.venv-fuzz/bin/python -c "import atheris" 2>/dev/null || .venv-fuzz/bin/python -m pip install --quiet "atheris==3.0.0"
	@$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	  > "$$(.venv-fuzz/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/gateway.pth"
	.venv-fuzz/bin/python tests/fuzz/fuzz_atheris.py $(ARGS)

# The compiled kernels under gcc's AddressSanitizer and UndefinedBehaviorSanitizer: their tests and targets.
fuzz-asan: venv
	$(BIN)/python tests/fuzz/sanitized.py $(ARGS)

docs: venv
	$(BIN)/python -m gateway.settings.docs > docs/settings.md
	$(BIN)/python -m gateway.errors_docs > docs/errors.md
	$(BIN)/python -m gateway.metrics_docs > docs/metrics.md
	$(BIN)/python -m bench.page
	$(BIN)/python -m governance.audit.record_docs > docs/audit-record.md

# Exact versions with hashes, without any registry address. Needs `uv`.
COMPILE := uv pip compile --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 --quiet
LOCKS := kserve mlflow mlserver models phoenix
lock:
	$(COMPILE) --universal pyproject.toml requirements/dev.in --output-file $(LOCK)
	for name in $(LOCKS); do $(COMPILE) requirements/$$name.in --output-file requirements/$$name.lock; done
	$(COMPILE) requirements/triton.in --output-file gateway/triton/triton.lock

clean:
	rm -rf build .venv* .triton state deploy/local/state
	find gateway governance kernels -name '*.so' -o -name '*_c.c' -o -name '*_c.cpp' | xargs rm -f
