# The gate of this repository, under the names people try first. `.ci/run` runs the same targets.

SHELL := /bin/bash
CARGO ?= cargo
BACKHAUL := target/debug/backhaul
# The tests' own Postgres: created at the first use, stopped and removed when they end, also when they fail.
TEST_CLUSTER := target/tmp/cluster

.DEFAULT_GOAL := help
.PHONY: help demo test lint fmt db-stop postgres

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: postgres ## Run everything once against simulated upstreams, and show what happened
	@$(CARGO) build --bin backhaul
	@exec $(BACKHAUL) demo

test: postgres ## Run all tests, starting what they need
	@end() { if [ -x $(BACKHAUL) ] && $(BACKHAUL) db stop --dir $(TEST_CLUSTER) >/dev/null; then rm -rf $(TEST_CLUSTER); fi; }; \
	trap end EXIT; \
	if [ -n "$$DATABASE_URL" ]; then export BACKHAUL_TEST_DATABASE_URL="$$DATABASE_URL"; fi; \
	$(CARGO) test --workspace

lint: ## Check formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fmt: ## Format everything
	$(CARGO) fmt --all

db-stop: ## Stop the private Postgres of this checkout
	@[ ! -x $(BACKHAUL) ] || $(BACKHAUL) db stop

# Looks where src/cluster/binaries.rs looks. Root on Debian may install it; others are told what to do.
postgres:
	@if [ -n "$$DATABASE_URL" ] || [ -n "$$BACKHAUL__CLUSTER__BIN_DIR" ]; then exit 0; fi; \
	if command -v initdb >/dev/null || ls -d /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb \
		/opt/homebrew/opt/postgresql@*/bin/initdb /usr/local/opt/postgresql@*/bin/initdb \
		/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin/initdb \
		/Applications/Postgres.app/Contents/Versions/[0-9]*/bin/initdb 2>/dev/null | grep -q .; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo 'Postgres is missing: installing it with apt-get'; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql >/dev/null; \
	else \
		echo 'Postgres 15 or later is missing: install it (Debian: apt-get install postgresql; macOS: brew install postgresql@17) or set DATABASE_URL' >&2; \
		exit 1; \
	fi
