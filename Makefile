# `make` alone says what there is.

.DEFAULT_GOAL := help
# Two builds at once would only take each other's cores.
.NOTPARALLEL:

# Which servers the bed runs on: see e2e/servers/servers.py.
export VAULT KUBERNETES

CARGO ?= cargo
PYTHON ?= python3
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
IMAGE ?= vault-secrets-reloader:$(VERSION)
CHART := deploy/charts/vault-secrets-reloader
ALERTS := deploy/prometheus
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
CONTROLLER := $(TARGET_DIR)/release/vault-secrets-reloader
BED := $(TARGET_DIR)/debug/bed
# Where what a release consists of is put.
ARTIFACTS ?= target/artifacts
# Which scenarios run: those whose names contain one of these words. All, where it is empty.
export ONLY ?=
# How many scenarios run at once, if not as many as the program of the scenarios takes for best.
AT_ONCE ?=
# Histories of the model in `make test-unit`, with the checks of a debug build; `make test` plays
# 100,000, optimised.
QUICK_HISTORIES ?= 3000
FUZZ_TIME ?= 60
# Unit tests at once: several of them wait most of their time.
export RUST_TEST_THREADS ?= 6

# Sets $$servers to the folder of the servers, in a recipe; builds them when they are missing.
FIND_SERVERS = servers=$$($(PYTHON) e2e/servers/servers.py) && servers=$$(echo "$$servers" | tail -n 1)

.PHONY: help
help: ## What can be made
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } /^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Try it

.PHONY: demo
demo: need-cargo need-python3 say-servers say-build bed ## Run the main job once and show it; KEEP=1 leaves everything running
	@$(BED) demo $(if $(filter-out 0,$(KEEP)),--keep)

.PHONY: up
up: need-cargo need-python3 say-servers bed ## Start a bed in the background and print how to talk to it
	@$(BED) up

.PHONY: down
down: need-cargo bed ## End the bed that `up` or `demo KEEP=1` left running
	@$(BED) down

.PHONY: deploy
deploy: need-cargo need-python3 say-build bed ## Install the chart into the bed of `up`, and run its controller
	@$(BED) deploy

.PHONY: run
run: need-cargo need-python3 say-servers say-build bed ## Run the controller in this terminal against the bed of `up`; ARGS= adds flags
	@exports=$$($(BED) up) && eval "$$exports" && \
	    exec $(CONTROLLER) --log-level debug --reloader-run-period 5s $(ARGS)

##@ Build it

.PHONY: build
build: need-cargo ## Build the controller: target/release/vault-secrets-reloader
	$(CARGO) build --release --bin vault-secrets-reloader

.PHONY: servers
servers: need-python3 ## Build and fetch the servers of the bed, once; the last line is their folder
	@$(PYTHON) e2e/servers/servers.py

.PHONY: deps
deps: need-cargo need-go ## Download what the builds need
	$(CARGO) fetch --locked
	cd e2e/servers && go mod download

.PHONY: container-image
container-image: ## Build the container image IMAGE with docker
	@command -v docker >/dev/null || { echo "docker is not on the PATH: install it, or build the Dockerfile with another engine" >&2; exit 1; }
	docker build --tag $(IMAGE) .

.PHONY: artifacts
artifacts: need-cargo need-python3 build ## Binary and packaged chart, in target/artifacts
	@mkdir -p target/artifacts
	cp $(CONTROLLER) target/artifacts/
	@$(FIND_SERVERS) && "$$servers/helm" package $(CHART) --destination target/artifacts

##@ Check it

.PHONY: test
test: need-cargo need-python3 say-servers say-build ## All tests: units, and scenarios on real servers
	@unset ONLY; failed=0; \
	    $(CARGO) test --workspace --no-fail-fast || failed=1; \
	    $(CARGO) test --release --test model || failed=1; \
	    exit $$failed

.PHONY: test-unit
test-unit: need-cargo ## The tests that need no servers, in less than a minute
	$(CARGO) test
	MODEL_HISTORIES=$(QUICK_HISTORIES) $(CARGO) test --test model

.PHONY: test-e2e
test-e2e: need-cargo need-python3 say-servers say-build ## The scenarios on real servers; ONLY= names some
	$(CARGO) test --workspace --test scenarios $(if $(AT_ONCE),-- --test-threads=$(AT_ONCE))

.PHONY: faults
faults: need-cargo need-python3 say-servers say-build bed ## Break everything beside 200 workloads and count what was missed or doubled; ARGS= for others
	@$(BED) faults $(ARGS)

.PHONY: lint
lint: need-cargo need-go need-python3 ## Formatting, clippy, the chart, the alerts, the workflows, the licences of dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@# Of all targets, the model alone is not tested by default, and so it is not in --all-targets.
	$(CARGO) clippy --test model -- -D warnings
	@$(FIND_SERVERS) && deploy/charts/check.sh "$$servers/helm"
	@if command -v promtool >/dev/null; then promtool check rules $(ALERTS)/alerts.yaml && promtool test rules $(ALERTS)/alerts_test.yaml; \
	    else echo "skipped: promtool is not installed (it is in the package prometheus)"; fi
	@$(MAKE) --no-print-directory lint-workflows
	@# Without advisories: `make advisories` reads them, because their database is in no package registry.
	@if command -v cargo-deny >/dev/null; then cargo-deny --locked check bans licenses sources; \
	    else echo "skipped: cargo-deny is not installed (cargo install cargo-deny --locked)"; fi

.PHONY: lint-workflows
lint-workflows: need-go ## The workflows of GitHub Actions, with actionlint
	@actionlint=$$(.ci/tool actionlint) && "$$actionlint" .github/workflows/*.yaml && echo "workflows: actionlint finds nothing"

.PHONY: advisories
advisories: need-cargo ## Look for dependencies with a published vulnerability; downloads the advisory database
	@deny=$$(.ci/tool cargo-deny) && "$$deny" --locked check advisories

.PHONY: image-check
image-check: ## Build in a Debian 13 root and run in a root of what the image holds, as root; BINARY= checks that one
	deploy/image/check.sh $(BINARY)

.PHONY: docs
docs: need-cargo ## Write the tables of the documentation that come from the code
	@UPDATE_DOCS=1 $(CARGO) test --quiet --test docs_generated are_current

.PHONY: bench
bench: need-cargo need-python3 say-servers say-build bed ## Measure the reading of values, polls beside bare requests, a rotation of 500 workloads, and the controller beside 10,000; OTHER= a reloader beside ours, ARGS= for the last
	@$(CARGO) bench -q -p e2e --bench references
	@VSR_OTHER=$(OTHER) $(CARGO) bench -q -p e2e --bench polls
	@$(BED) waves
	@$(BED) scale $(ARGS)

.PHONY: fuzz
fuzz: need-cargo ## Fuzz what is decoded of others: FUZZ_TIME= seconds a target, TARGET= names one
	@FUZZ_TIME=$(FUZZ_TIME) TARGET=$(TARGET) KEEP=$(KEEP) fuzz/run

.PHONY: fmt
fmt: need-cargo ## Format the sources
	$(CARGO) fmt --all

##@ Release it (docs/releases.md)

.PHONY: release-check
release-check: ## See that TAG= names the version of the program, the chart and the changelog
	@deploy/release/release.sh check "$(TAG)"

.PHONY: release-notes
release-notes: ## Print what the changelog says about the version
	@deploy/release/release.sh notes

.PHONY: release-image
release-image: ## Build IMAGE_NAME for amd64 and arm64 with docker buildx; PUSH=1 pushes it
	@deploy/release/release.sh image "$(IMAGE_NAME)" $(if $(filter-out 0,$(PUSH)),--push)

.PHONY: release-binary
release-binary: build ## The command for this machine's system, packed
	@deploy/release/release.sh binary "$(CONTROLLER)" "$(ARTIFACTS)"

.PHONY: release-chart
release-chart: need-go ## The chart, packed, with IMAGE_NAME as its image
	@deploy/release/release.sh chart "$(IMAGE_NAME)" "$(ARTIFACTS)"

.PHONY: release-sbom
release-sbom: need-cargo ## The bill of materials of the program: its crates, as CycloneDX
	@deploy/release/release.sh sbom "$(ARTIFACTS)"

.PHONY: release-sums
release-sums: ## SHA256SUMS of everything in ARTIFACTS
	@deploy/release/release.sh sums "$(ARTIFACTS)"

.PHONY: site
site: need-cargo need-python3 ## The documentation as a site, in target/site
	@$(PYTHON) .ci/site.py target/site-source && mdbook=$$(.ci/tool mdbook) && "$$mdbook" build target/site-source --dest-dir "$(CURDIR)/target/site"

# What others build first, with a word about how long it takes where it takes long.

.PHONY: say-servers
say-servers:
	@$(PYTHON) e2e/servers/servers.py --no-folder

.PHONY: say-build
say-build:
	@test -x $(CONTROLLER) || echo "building the controller: 3 to 5 minutes on two cores the first time"
	@$(CARGO) build --quiet --release --bin vault-secrets-reloader

.PHONY: bed
bed:
	@test -x $(BED) || echo "building the test bed's program: about 2 minutes on two cores the first time"
	@$(CARGO) build --quiet --workspace --bin bed

.PHONY: need-cargo need-go need-python3
need-cargo:
	@command -v $(firstword $(CARGO)) >/dev/null || { echo "cargo is not on the PATH: install Rust with rustup (https://rustup.rs); rust-toolchain.toml picks the version" >&2; exit 1; }
need-go:
	@command -v go >/dev/null || { echo "go is not on the PATH: install Go 1.26 or newer (https://go.dev/dl); it builds the servers of the test bed" >&2; exit 1; }
need-python3:
	@command -v $(firstword $(PYTHON)) >/dev/null || { echo "python3 is not on the PATH: install Python 3.9 or newer, with pip; it builds the servers of the test bed" >&2; exit 1; }
