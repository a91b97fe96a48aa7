# One verb per task. Each makes .venv and installs on its own when needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-gpu lint bench bench-gpu docs tour site clean

# timm, for its tests, without torchvision: it needs none for networks, and a build of it must be that of torch, which
# the package index does not have for torch on a CPU. What else timm needs is there already.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'timm>=1.0.20'
	@touch $(READY)

demo: $(READY)
	$(BIN)/deltactl demo

# Without CI's variables pytest ends with one line for each failure, instead of whole differences that bury the names.
test: $(READY)
	env -u CI -u BUILD_NUMBER $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The tests that are marked gpu, on the GPU of this machine. Without the checks of shapes, which cannot be compiled, and
# with warnings as warnings, since CUDA's own kernels warn. What compiles networks runs in processes of its own.
test-gpu: $(READY)
	env -u CI -u BUILD_NUMBER $(BIN)/python -m pytest -m gpu -o addopts= --import-mode=importlib --strict-markers \
		-o filterwarnings=default -ra $$(grep -rl --include='test_*.py' 'mark\.gpu' tests)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@mkdir -p .mypy_root && ln -sfn .. .mypy_root/deltactl
	MYPYPATH=.mypy_root $(BIN)/mypy --explicit-package-bases --exclude '/(tests|benchmarks|build|docs|workspace)/' .mypy_root/deltactl

docs: $(READY)
	$(BIN)/python docs/generate_cli.py > docs/cli.md.new && mv docs/cli.md.new docs/cli.md
	$(BIN)/python docs/generate_files.py > docs/files.md.new && mv docs/files.md.new docs/files.md
	$(BIN)/python docs/generate_plans.py
	$(BIN)/python docs/generate_charts.py

# Runs the cells of docs/tour.ipynb, about two minutes on two CPU cores, and saves what they print and draw.
tour: $(READY)
	$(BIN)/python docs/generate_tour.py

# The documentation as a site, build/site/index.html. A link that leads nowhere fails; with --quiet nothing would.
$(VENV)/.ready-site: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

site: $(VENV)/.ready-site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(READY)
	@for file in $$(ls benchmarks/*.py | grep -v /gpu); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

# On one GPU, within ten minutes: a JSON line for each result, then the table of docs/benchmarks.md from the lines.
LINES ?= docs/gpu.jsonl
bench-gpu: $(READY)
	$(BIN)/python benchmarks/gpu.py --out $(LINES)
	$(BIN)/python benchmarks/gpu_table.py $(LINES)

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .mypy_root
