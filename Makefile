# `make run` and `make test` are all a newcomer needs; both install first, into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := pretrained,openvino,milvus,postgresql,object-store,fuzz,dev
TEST_PACKAGES := dcmtk dicom3tools orthanc orthanc-python postgresql chromium chromium-driver

# Some environments leave out the folders of what only root needs; a database for tests is started as its own user.
export PATH := $(PATH):/usr/sbin:/sbin
# Tests start hundreds of processes: none compiles the node again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test test-engines check bench fuzz demo docs lock sbom install system-packages clean

run: install  ## Start a node on loopback with data in ./pacsimile-data
	$(BIN)/pacsimile serve

test: install system-packages  ## The whole suite, a file of tests at a time on each core
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-engines: install system-packages  ## The whole suite on PostgreSQL and Milvus Lite in place of SQLite and hnswlib
	PACSIMILE_TEST_ENGINES=postgresql+milvus $(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

check: install  ## Linters, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install system-packages  ## Benchmarks: ratios measured side by side, written to docs/benchmarks.md
	$(BIN)/python tests/benchmarks/report.py

FUZZ_S := 600
fuzz: install  ## What peers send, made up at random, for long: FUZZ_S seconds for each target of the guided fuzzer
	PACSIMILE_FUZZ_EXAMPLES=20000 $(BIN)/pytest tests/fuzz
	set -e; for target in $$($(BIN)/python tests/fuzz/guided.py); do \
	  $(BIN)/python tests/fuzz/guided.py $$target -max_total_time=$(FUZZ_S); done

demo: install  ## The whole way without any DICOM at hand
	$(BIN)/pacsimile demo

docs: install  ## Documents whose tables come from the code
	$(BIN)/python -m dicom_scp.conformance > docs/conformance.md.new && mv docs/conformance.md.new docs/conformance.md

lock: install  ## The versions and hashes that the image is built with
	$(BIN)/python docker/lock.py

sbom: install  ## Bill of materials of the image (CycloneDX)
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON \
	  --output-file sbom.cdx.json docker/requirements.txt

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

system-packages:  ## Debian packages that tests talk to: installed when root, else those tests are skipped
	@missing=; for p in $(TEST_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	else echo "Not installed, tests that need them are skipped:$$missing"; fi

clean:
	rm -rf $(VENV)
