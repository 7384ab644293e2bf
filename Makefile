# Snakepit for Kubernetes. `make help` lists every target; README.md starts with `make demo` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# local: the one-node cluster of hack/local-cluster. current: the cluster of your kubeconfig (kind and any other).
CLUSTER ?= local
# Where images go with CLUSTER=current; kind clusters load them instead.
IMAGE_REPOSITORY ?=
# 1 or 2 nodes of a local cluster that is yet to start (1 unless said).
NODES ?=
IMAGE_TAG ?=
export CLUSTER IMAGE_REPOSITORY IMAGE_TAG NODES

PYTHON ?= python3
VENV := .venv
VENV_READY := $(VENV)/.installed
LOCAL_CLUSTER := go -C hack/local-cluster run .
GEN_TOOL := go tool -modfile=hack/tools/gen/go.mod
# What the .proto files must stay compatible with.
BUF_BASE ?= HEAD
BUF := go tool -modfile=hack/tools/buf/go.mod buf
GOLANGCI := go tool -modfile=hack/tools/lint/go.mod golangci-lint
UNIT_PACKAGES = $$(go list ./... | grep -v /test/)

ifeq ($(CLUSTER),local)
KUBECONFIG := $(CURDIR)/.cluster/kubeconfig
KUBECTL := $(CURDIR)/.cluster/bin/kubectl
export KUBECONFIG
else
KUBECTL ?= kubectl
endif
export KUBECTL

##@ Start here
.PHONY: help
help: ## List every target
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-zA-Z0-9_-]+:.*##/ {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## From nothing to an answer: cluster, images, operator, a pool, and its whole life as a story
	@$(PYTHON) hack/demo/demo.py

.PHONY: demo-clean
demo-clean: ## Remove what the demo made, the local cluster included
	@$(PYTHON) hack/demo/demo.py --clean

.PHONY: test
test: ## Everything that CI checks; what this machine cannot run is named in one line
	@hack/test.sh

##@ Cluster
.PHONY: cluster-up
cluster-up: ## Start (or find) the local one-node Kubernetes; NODES=2 for two nodes
	@$(LOCAL_CLUSTER) up

.PHONY: cluster-down
cluster-down: ## Stop it and remove every process, mount, interface and file of it
	@$(LOCAL_CLUSTER) down

.PHONY: cluster-status
cluster-status: ## Say what runs and how to reach it
	@$(LOCAL_CLUSTER) status

.PHONY: node-cut
node-cut: ## Cut the second node off (NODES=2); its containers run on
	@$(LOCAL_CLUSTER) node-cut

.PHONY: node-return
node-return: ## Bring the second node back
	@$(LOCAL_CLUSTER) node-return

.PHONY: images
images: ## Build the operator and worker images and load them into the cluster
	@hack/images/build.sh all
	@$(LOCAL_CLUSTER) load bin/images/operator.tar bin/images/worker.tar

.PHONY: install
install: ## Apply the CRDs and the operator (kubectl apply)
	@hack/install.sh apply

.PHONY: uninstall
uninstall: ## Delete every pool, then the CRDs, then the operator; refuses when pools do not go
	@hack/install.sh delete

##@ Develop
.PHONY: build
build: ## Build the operator (bin/manager) and the router (bin/router)
	@mkdir -p bin
	go build -o bin/manager .
	go build -o bin/router ./router

.PHONY: venv
venv: $(VENV_READY) ## Make the Python environment for development in .venv

$(VENV_READY): worker-image/requirements-dev.lock worker-image/pyproject.toml
	@echo "venv: installing locked Python packages into $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "venv: python3 -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(VENV)/bin/pip install --quiet --require-hashes --only-binary=:all: -r worker-image/requirements-dev.lock
	@echo "$(CURDIR)/worker-image/src" > "$$($(VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')/snakepit.pth"
	@touch $@

.PHONY: generate
generate: $(VENV_READY) ## Write every generated file
	@hack/generate.sh

.PHONY: verify
verify: $(VENV_READY) ## Fail when a generated file differs from what generate writes
	@hack/verify.sh

.PHONY: dist
dist: ## Write dist/install.yaml for IMAGE_REPOSITORY and IMAGE_TAG, into DIST (out/dist)
	@hack/dist.sh $(or $(DIST),out/dist)

.PHONY: fmt
fmt: $(VENV_READY) ## Format Go, Python and protobuf
	gofmt -w $$(git ls-files '*.go' | grep -v -e zz_generated -e '\.pb\.go')
	$(VENV)/bin/ruff format worker-image test hack
	$(BUF) format -w

.PHONY: lint
lint: $(VENV_READY) ## Lint Go (import table included), Python, protobuf and what is installed
	$(GOLANGCI) run ./...
	$(BUF) lint
	$(BUF) format -d --exit-code
	$(BUF) breaking --against '.git#ref=$(BUF_BASE)'
	$(VENV)/bin/ruff check worker-image hack test
	$(VENV)/bin/ruff format --check worker-image hack test
	cd worker-image && ../$(VENV)/bin/mypy
	hack/score.sh

.PHONY: vuln
vuln: ## Known vulnerabilities in what we call; VULNDB=folder or .tar.xz of the database, else the online one
	@hack/vuln.sh

##@ Test (parts of make test)
.PHONY: test-unit
test-unit: ## Go unit and property tests, with the race detector
	go test -race $(UNIT_PACKAGES)

.PHONY: test-python
test-python: $(VENV_READY) ## Python tests of worker and client
	cd worker-image && FIGURES="$(CURDIR)/out/figures.jsonl" ../$(VENV)/bin/pytest

.PHONY: test-apiserver
test-apiserver: ## Operator and router against a real etcd and kube-apiserver
	KUBEBUILDER_ASSETS="$$($(LOCAL_CLUSTER) assets)" FIGURES="$(CURDIR)/out/figures.jsonl" go test -race -parallel 6 ./test/apiserver/... ./router/membership/...

.PHONY: test-drains
test-drains: ## Nodes cordoned, lost and back, and kubectl drain, against a real API server (90 s)
	KUBEBUILDER_ASSETS="$$($(LOCAL_CLUSTER) assets)" FIGURES="$(CURDIR)/out/figures.jsonl" go test -race ./test/nodes/...

.PHONY: test-monitoring
test-monitoring: ## Alerts fire when they should, and ask only for metrics that exist (Prometheus' own engine)
	go -C test/monitoring test -count=1 ./...

.PHONY: faults
faults: ## Crash at every write (R1), on a real API server; FAULTS=all for every point
	KUBEBUILDER_ASSETS="$$($(LOCAL_CLUSTER) assets)" hack/faults.sh

.PHONY: scale
scale: ## What many pools cost the operator (R15); SCALE=100,200,500,1000
	KUBEBUILDER_ASSETS="$$($(LOCAL_CLUSTER) assets)" FIGURES="$$PWD/out/figures.jsonl" hack/gotest.sh -count=1 -timeout 60m ./test/scale

.PHONY: datapath-faults
datapath-faults: $(VENV_READY) ## Faults on the whole data path: router, supervisor, workers, callers (S, F2); DATAPATH_SEED=n; FAULTS=all for the long forms of S4 and S12 (11 min more)
	FIGURES="$$PWD/out/figures.jsonl" hack/gotest.sh -race -count=1 -timeout 30m ./test/datapath

.PHONY: soak
soak: $(VENV_READY) ## Mixed load with kills for SOAK (30m): no failure, no growth (S14)
	FIGURES="$$PWD/out/figures.jsonl" SOAK=$(or $(SOAK),30m) hack/gotest.sh -count=1 -timeout 90m -run '^TestS14' ./test/datapath

.PHONY: seeded
seeded: $(VENV_READY) ## Build bugs into the router that its tests must catch
	@hack/seeded.sh

.PHONY: mutations
mutations: ## Every accepted value of every property of a pool's spec, there and back (R10); test-apiserver takes one a property
	FIGURES="$(CURDIR)/out/figures.jsonl" MUTATIONS=all KUBEBUILDER_ASSETS="$$($(LOCAL_CLUSTER) assets)" hack/gotest.sh -race -count=1 -parallel 6 -run TestEveryProperty ./test/apiserver

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZ_TIME (30s) each
	@FIGURES="$(CURDIR)/out/figures.jsonl" hack/fuzz.sh

.PHONY: sequences
sequences: ## Random sequences of commands against a model (F5), SEQUENCES (2000) for each
	@FIGURES="$(CURDIR)/out/figures.jsonl" hack/sequences.sh

.PHONY: bench
bench: $(VENV_READY) ## Compare with plain grpcio and write docs/benchmarks.md; BASELINE=commit, BENCH_QUICK=1 (a look, 2 min)
	@go run ./hack/bench --docs docs/benchmarks.md $(if $(BASELINE),--baseline $(BASELINE))

.PHONY: bench-profile
bench-profile: $(VENV_READY) ## Say where the router's CPU time goes, in µs a call
	@go run ./hack/bench --profile --docs docs/benchmarks.md

.PHONY: bench-peers
bench-peers: $(VENV_READY) ## Ray Serve and LitServe, newest, in an environment of their own: echo, and recovery from a crash
	@go run ./hack/bench/peers --docs docs/benchmarks.md

.PHONY: figures
figures: ## Print the figures that the fault suites, the soak and make bench left, as a table; fails when one is beyond its bound
	@go run ./hack/figures

.PHONY: reliability
reliability: ## Write docs/reliability.md from the figures of the fault tests; a test that left none is "not run"
	@go run ./hack/figures --reliability docs/reliability.md

.PHONY: test-e2e
test-e2e: ## Stories on a real node; needs cluster-up, images and install (make test does all)
	FIGURES="$(CURDIR)/out/figures.jsonl" SNAKEPIT_E2E=1 hack/gotest.sh -count=1 -timeout 30m -parallel 3 ./test/e2e/...
	@if [ "$(CLUSTER)" = local ]; then go run ./hack/audit-rbac "$$(dirname "$$(readlink -f "$(KUBECONFIG)")")/log"; else echo "left out: rights that nobody used are found in the audit log of a local cluster only"; fi

.PHONY: test-nodes
test-nodes: ## A node lost and returned, kubectl drain; needs cluster-up NODES=2, images and install
	FIGURES="$(CURDIR)/out/figures.jsonl" SNAKEPIT_E2E=1 hack/gotest.sh -count=1 -timeout 20m -run '^(TestNodeLostAndReturned|TestKubectlDrain)$$' ./test/e2e

.PHONY: clean
clean: ## Remove build output; caches and clusters stay
	rm -rf bin out $(VENV)
