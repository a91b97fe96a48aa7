# One verb per task. Each makes .venv and installs on its own when needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench docs clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/deltactl demo

# Without CI's variables pytest ends with one line for each failure, instead of whole differences that bury the names.
test: $(READY)
	env -u CI -u BUILD_NUMBER $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@mkdir -p .mypy_root && ln -sfn .. .mypy_root/deltactl
	MYPYPATH=.mypy_root $(BIN)/mypy --explicit-package-bases --exclude '/(tests|benchmarks|build|docs|workspace)/' .mypy_root/deltactl

docs: $(READY)
	$(BIN)/python docs/generate_cli.py > docs/cli.md.new && mv docs/cli.md.new docs/cli.md
	$(BIN)/python docs/generate_files.py > docs/files.md.new && mv docs/files.md.new docs/files.md

bench: $(READY)
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .mypy_root
