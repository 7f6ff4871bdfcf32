# Needs Go, make and a C compiler (for the race detector), nothing else. PostgreSQL
# is found on the machine, or its binaries are downloaded once. No root, no Docker.
# `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

GO ?= go
# The tags that xcaddy builds with: they leave storage back ends out of Caddy's
# certificate authority that nobody here uses.
TAGS := nobadger,nomysql,nopgx
BUILD_FLAGS := -trimpath -ldflags '-s -w' -tags $(TAGS)

GOLANGCI_LINT_VERSION := v2.15.0
GOVULNCHECK_VERSION := v1.9.0
BENCHSTAT_VERSION := v0.0.0-20260908200009-22c9c6c9d4da
GREMLINS_VERSION := v0.6.0
# Each version has a directory of its own, so that a new pin is a new build and
# an old branch finds its own.
GOLANGCI_LINT_DIR := $(CURDIR)/bin/tools/golangci-lint-$(GOLANGCI_LINT_VERSION)
GOLANGCI_LINT := $(GOLANGCI_LINT_DIR)/golangci-lint
GREMLINS_DIR := $(CURDIR)/bin/tools/gremlins-$(GREMLINS_VERSION)
GREMLINS := $(GREMLINS_DIR)/gremlins

# How long one test binary may take. A whole cold `make test` is meant to stay
# under ten minutes on two cores, half of which is the compiler.
TEST_TIMEOUT ?= 12m
TEST_FLAGS ?=
PKG ?= ./...
# The packages whose tests wait most come first, so that the others run beside them, and not before.
SLOW := ./test/integration ./runner/driver/odoo ./runner ./runner/postgres ./test/fault
FUZZTIME ?= 20s
# What `bench` measures, as names of scenarios; nothing means all.
BENCH ?=
BENCH_FLAGS ?=
GOBENCH ?= .
# How many random histories `histories` makes.
HISTORIES ?= 10000
# How many attempts `cancellations` cancels.
CANCELLATIONS ?= 10000
BENCH_COUNT ?= 6
REV ?=
KEEP ?=
# The series of a real Odoo for the demo, 14 or 19; nothing means the stub.
ODOO ?=

# What Caddy would put into the home directory stays in the build directory.
CADDY_ENV := XDG_CONFIG_HOME=$(CURDIR)/bin/xdg XDG_DATA_HOME=$(CURDIR)/bin/xdg
EXAMPLE := Caddyfile.example

.PHONY: help
help: ## Show this help
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) \
		| awk -F ':.*## ' '{ printf "  %-13s %s\n", $$1, $$2 }'

.PHONY: build
build: ## Build bin/caddy: Caddy with this module, with the flags that xcaddy uses
	CGO_ENABLED=0 $(GO) build $(BUILD_FLAGS) -o bin/caddy ./cmd/caddy

.PHONY: demo
demo: build ## Run 2,000 jobs through a real Caddy and PostgreSQL (KEEP=1 leaves it running, ODOO=19 takes a real Odoo)
	@$(GO) build -trimpath -tags $(TAGS) -o bin/demo ./cmd/demo
	@bin/demo -caddy bin/caddy $(if $(KEEP),-keep) $(if $(ODOO),-odoo $(ODOO))

.PHONY: test
# A program with the race detector sleeps before it ends well, a second if nothing else is said.
test: ## Run all tests with the race detector (PKG=./channels TEST_FLAGS='-run X' narrow it)
	@CGO_ENABLED=1 GORACE="$${GORACE:-} atexit_sleep_ms=50" .ci/test $(GO) test -race -timeout $(TEST_TIMEOUT) -tags $(TAGS) $(TEST_FLAGS) $(if $(filter ./...,$(PKG)),$(SLOW)) $(PKG)

.PHONY: bench
bench: build ## Measure against the limit of the machine (BENCH='drain idle' narrows, BENCH_FLAGS=-quick)
	@$(GO) build -trimpath -tags $(TAGS) -o bin/bench ./cmd/bench
	@bin/bench -caddy bin/caddy $(BENCH_FLAGS) $(BENCH)

.PHONY: bench-go
bench-go: ## Run the Go benchmarks (GOBENCH=Name narrows them)
	$(GO) test -run '^$$' -bench '$(GOBENCH)' -benchmem -timeout 30m -tags $(TAGS) $(PKG)

.PHONY: bench-compare
bench-compare: ## Compare the Go benchmarks with those of REV, by benchstat (GOBENCH and PKG narrow them)
	@GO='$(GO)' TAGS='$(TAGS)' BENCHSTAT_VERSION='$(BENCHSTAT_VERSION)' GOBENCH='$(GOBENCH)' \
		BENCH_COUNT='$(BENCH_COUNT)' .ci/bench-compare '$(REV)' $(if $(filter-out ./...,$(PKG)),$(PKG))

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (default 20s) each
	@grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -rn1 dirname | sort -u | while read -r dir; do \
		for target in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go | cut -d' ' -f2); do \
			echo "== $$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s -tags $(TAGS) "$$dir"; \
		done; \
	done

.PHONY: mutate
# A package takes minutes. An interrupted run goes on where it was.
mutate: $(GREMLINS) ## Break the code of PKG, and fail if its tests miss it (PKG=./channels; not part of check)
	@GO='$(GO)' TAGS='$(TAGS)' GREMLINS='$(GREMLINS)' .ci/mutate $(PKG)

MODEL_FAULTS ?= 2

.PHONY: model
model: ## Check the model of the protocol with up to MODEL_FAULTS faults (default 2) in one history, a minute or two
	JOBRUNNER_MODEL_FAULTS=$(MODEL_FAULTS) $(GO) test -count=1 -timeout 60m -tags $(TAGS) -v -run '^TestModel' ./runner ./test/model

.PHONY: lint
# With the flags of `build`, so that the two share what the compiler has cached.
lint: $(GOLANGCI_LINT) ## Run the linters of .golangci.yaml
	CGO_ENABLED=0 GOFLAGS="$${GOFLAGS:-} -trimpath" $(GOLANGCI_LINT) run ./...

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## Format the Go code and the example Caddyfile
	$(GOLANGCI_LINT) fmt ./...
	@if [ -x bin/caddy ]; then bin/caddy fmt --overwrite $(EXAMPLE); fi

.PHONY: fmt-check
fmt-check: $(GOLANGCI_LINT) ## Fail if the Go code is not formatted
	$(GOLANGCI_LINT) fmt --diff ./...

.PHONY: tidy-check
tidy-check: ## Fail if go.mod or go.sum is not tidy
	$(GO) mod tidy -diff

.PHONY: example
example: build ## Fail if the example Caddyfile is not formatted, adaptable and valid
	bin/caddy fmt --diff $(EXAMPLE) >/dev/null
	$(CADDY_ENV) bin/caddy adapt --config $(EXAMPLE) --adapter caddyfile >/dev/null
	$(CADDY_ENV) bin/caddy validate --config $(EXAMPLE) --adapter caddyfile
	bin/caddy list-modules | grep -x jobrunner
	bin/caddy list-modules | grep -x jobrunner.drivers.odoo

.PHONY: vuln
vuln: ## Look for known vulnerabilities (needs the network; not part of check)
	$(GO) run golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION) -tags $(TAGS) ./...

.PHONY: check
check: ## Everything that has to hold: tidy, format, lint, example, demo, tests
	@$(MAKE) tidy-check
	@$(MAKE) fmt-check
	@$(MAKE) lint
	@$(MAKE) example
	@$(MAKE) demo
	@$(MAKE) test

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin

$(GOLANGCI_LINT):
	GOBIN=$(GOLANGCI_LINT_DIR) $(GO) install \
		github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)

$(GREMLINS):
	GOBIN=$(GREMLINS_DIR) $(GO) install github.com/go-gremlins/gremlins/cmd/gremlins@$(GREMLINS_VERSION)

## test-odoo
.PHONY: test-odoo
test-odoo: ## Run the suite with a real Odoo 14 and 19 (root, debootstrap, network, 4 GB of cache)
	test/odoo/testbed.sh check
	@$(MAKE) build
	$(GO) test -count=1 -v -timeout 90m -tags $(TAGS),odoo $(TEST_FLAGS) ./test/odoo

## fault

FAULT ?=
TRANSPORT ?= tcp
# The major version of PostgreSQL, such as 18 or 9.6; nothing means that of the machine.
PG ?=
SOAK ?= 30m
SEED ?=

.PHONY: fault
fault: ## Run the fault suite, ten minutes (FAULT=Odoo-answers narrows; TRANSPORT=unix, PG=18)
	@$(GO) test -c -tags $(TAGS),fault -o bin/fault.test ./test/fault
	@JOBRUNNER_PG_VERSION=$(PG) bin/fault.test -transport $(TRANSPORT) -test.timeout 25m -test.run '^(TestFaults|TestGuards)$$/$(FAULT)'

GRANT ?=

.PHONY: grants
grants: ## Let single jobs be claimed while their databases meddle, ten minutes (GRANT=trigger narrows it)
	@$(GO) test -c -tags $(TAGS),fault -o bin/fault.test ./test/fault
	@cd test/fault && ../../bin/fault.test -test.timeout 25m -test.run '^TestGrants$$/$(GRANT)'

ATTACK ?=

.PHONY: attack
attack: ## Run the attack suite, fifteen minutes (ATTACK=false-Odoo narrows it)
	@$(GO) test -c -tags $(TAGS),attack -o bin/attack.test ./test/attack
	@cd test/attack && ../../bin/attack.test -test.timeout 40m -test.run '^TestAttacks$$/$(ATTACK)'

.PHONY: histories
histories: ## Judge HISTORIES random histories (default 10000) in simulated time; SEED is that of the first
	$(GO) test -count=1 -timeout 60m -tags $(TAGS) -v -run '^TestHistories$$' ./runner -histories $(HISTORIES) $(if $(SEED),-history-seed $(SEED))

.PHONY: cancellations
cancellations: ## Cancel CANCELLATIONS jobs (default 10000) on backends that serve visitors too, and count whose statements end
	$(GO) test -count=1 -timeout 60m -tags $(TAGS) -v -run '^TestStopHitsNoVisitor$$' ./runner/driver/odoo -cancellations $(CANCELLATIONS)

.PHONY: soak
soak: ## Let faults happen at random for SOAK (default 30m); SEED repeats a run
	@$(GO) test -c -tags $(TAGS),fault,soak -o bin/soak.test ./test/fault
	@JOBRUNNER_PG_VERSION=$(PG) bin/soak.test -test.timeout 3h -test.run '^TestSoak$$' -soak $(SOAK) $(if $(SEED),-seed $(SEED))

.PHONY: soak-asleep
soak-asleep: ## Insert jobs at the edge of their databases' sleep for SOAK (default 30m); SEED repeats a run, PG=18
	@$(GO) test -c -tags $(TAGS),fault,soak -o bin/soak.test ./test/fault
	@JOBRUNNER_PG_VERSION=$(PG) bin/soak.test -test.timeout 3h -test.run '^TestSleepSoak$$' -soak $(SOAK) $(if $(SEED),-seed $(SEED))

## watch
.PHONY: test-browser
test-browser: build ## Drive the dashboard in a headless Chromium, and take the pictures in docs (needs chromium)
	@$(GO) build -trimpath -tags $(TAGS) -o bin/demo ./cmd/demo
	$(GO) test -count=1 -timeout $(TEST_TIMEOUT) -tags $(TAGS),browser -run 'Screenshots|Browser' ./dashboard ./test/integration

.PHONY: test-deploy
test-deploy: ## Check deploy/ with the real tools (needs promtool and systemd-analyze)
	$(GO) test -count=1 -timeout $(TEST_TIMEOUT) -tags $(TAGS),deploy -run 'Promtool|Systemd|Deployed|Alerts|Grafana|Kubernetes' .
