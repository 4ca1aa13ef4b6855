# The daily commands. `tests/run` is what must pass before a change goes in; the rest is for the time before.

.PHONY: help check fmt lint unit test slow docs manual bench demo release

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

check: ## type-check everything
	cargo check --locked --workspace --all-targets

fmt: ## format the Rust sources
	cargo fmt --all

lint: ## formatting, clippy and the CI workflow, as tests/run checks them
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	tests/lint-workflows

unit: ## the library's unit tests
	cargo test --locked --lib

test: ## everything that CI runs
	tests/run

slow: ## the same, with the slow tests and the benchmarks
	tests/run --slow

docs: ## the API documentation of the crate, in target/doc
	cargo doc --locked --no-deps --document-private-items

manual: ## the manual pages, in target/man (man -l target/man/bedrock-sidecar.8)
	cargo run --locked --example manual -- target/man

bench: ## the benchmarks, in a release build
	cargo bench --locked --workspace

demo: ## the daemon in front of a simulated Bedrock
	cargo run --locked --example demo

release: ## the packages to install (deb and rpm), in target/package
	packaging/build
