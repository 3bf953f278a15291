# Two commands matter: `make run` and `make test`. Both install what they need first.

SHELL := /bin/bash
CARGO ?= cargo
PROFILE ?= production
AREA ?= image
NAME ?=
SEED ?=
RECORDING ?=
SEEDS ?= 100000
TARGET := x86_64-unknown-linux-gnu
LIST ?=
# Of the whole workspace, so that what two programs share is compiled once. On a terminal cargo shows how far it is.
BUILD := build $(shell [ -t 2 ] || echo --quiet) --locked --workspace --bin

.PHONY: help run test check compile-tests compile-programs tests-and-sim images certify image release audit lock reproduce keys addon reproducible story shell sim backtest bench report setup clean

help:
	@echo 'make run                 build the image, boot it in QEMU, watch the engine trade'
	@echo '     CAPTURE=file.itch   trade against a recording; ACCEL=kvm|tcg CPUS=4 MEM=2048 override'
	@echo '     CREDENTIALS=dir     its files are credentials of the host; see docs/operating.md'
	@echo '     STRATEGY=crate      trade with a strategy of your own; see docs/strategy.md'
	@echo 'make test                format, lints, unit and property tests, stories in QEMU'
	@echo 'make check               the same without QEMU'
	@echo 'make certify             all of it at full size, on both kernels of ours too, and every image built twice: hours'
	@echo 'make image PROFILE=...   build target/image/PROFILE: production, demo or debug'
	@echo '     KERNEL=quietcore|rt    with our own kernel, built from kernel-config'
	@echo 'make addon HOST=host.toml   a host with cores or kernel words of its own: target/cores.addon.efi'
	@echo 'make release PROFILE=...    a signed release in target/releases; VERSION=1.2.3 for another version;'
	@echo '                            BUNDLE=bundle.tar of a release builds without a network'
	@echo 'make reproduce MANIFEST=...  a release built again from what it says it is made of, and compared'
	@echo 'make lock                   write image/packages.lock: the Debian packages as the mirror has them now'
	@echo 'make audit MANIFEST=... DEBIAN=tracker.json RUSTSEC=directory   what is known against a release'
	@echo '     WAIVERS=file.toml FAIL_AT=high   what is let pass, and what is not'
	@echo 'make keys                   development keys for Secure Boot in target/keys; KEYS=directory for others'
	@echo 'make reproducible           build the production image twice and compare every artefact'
	@echo 'make story NAME=prefix   the stories whose names begin so; LIST=1 lists all, KEEP=1 leaves the machine'
	@echo 'make shell               a shell in a debug machine that is ready, in seconds; a script on standard input is run'
	@echo 'make backtest RECORDING=file.itch  a strategy over a recorded day; STRATEGY=crate for your own'
	@echo 'make sim SEEDS=100000       the engine on a simulated machine that loses power; SEED=n repeats one'
	@echo 'make bench AREA=...         measure and write target/reports/AREA.json: image, engine, host, agent; make report'
	@echo '     BOOK_INPUT=file.itch   another recording for the book'

# Debian packages and root are needed to build the image; YES=1 (or being root) skips the question.
setup:
	@./image/setup

# Given as a path from here or from the root of the file system.
export STRATEGY := $(if $(STRATEGY),$(abspath $(STRATEGY)))

run: setup
	@$(CARGO) $(BUILD) systest && ./image/as-root target/debug/systest run

image: setup
	@./image/as-root image/build $(PROFILE)

release: setup
	@./image/as-root image/release $(PROFILE)

audit: setup
	@[ -n "$(MANIFEST)" -a -n "$(DEBIAN)" -a -n "$(RUSTSEC)" ] || { echo 'make audit: give MANIFEST=manifest.json of a release, DEBIAN=tracker.json, RUSTSEC=directory' >&2; exit 2; }
	@$(CARGO) $(BUILD) quietcore-describe
	@target/debug/quietcore-describe gate --manifest $(MANIFEST) --debian $(DEBIAN) --rustsec $(RUSTSEC) \
	    $(if $(WAIVERS),--waivers $(WAIVERS)) $(if $(FAIL_AT),--fail-at $(FAIL_AT))

lock: setup
	@./image/as-root image/lock

reproduce: setup
	@[ -n "$(MANIFEST)" ] || { echo 'make reproduce: give MANIFEST=manifest.json of a release' >&2; exit 2; }
	@./image/as-root image/reproduce $(MANIFEST)

keys: setup
	@./image/as-root image/build keys

addon: setup
	@[ -n "$(HOST)" ] || { echo 'make addon: give HOST=host.toml, and CPUS=n where its hot cores do not go to the last CPU' >&2; exit 2; }
	@./image/as-root image/addon $(HOST) target/cores.addon.efi $(if $(CPUS),--cpus $(CPUS))

# The drop copy is judged by QuickFIX, the count of system calls by strace.
check: setup
	@./image/setup g++ libquickfix-dev strace
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --workspace --locked

# What the tests and the image are made of is compiled side by side, and the images are put together beside the tests: one at
# a time keeps only one core busy.
test: setup
	@$(MAKE) --no-print-directory --jobs=2 compile-tests compile-programs
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line tests-and-sim images
	./image/as-root target/debug/systest stories

# Without the flags of the make above: a test starts compilers, which would look for its job server.
tests-and-sim:
	@MAKEFLAGS= $(MAKE) --no-print-directory check sim

images:
	./image/as-root image/build debug
	./image/as-root image/build production

compile-tests:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --workspace --locked --no-run

compile-programs:
	image/compile --quiet init engine agent exchange exporter dropcopy oci simulator

backtest: setup
	@[ -n "$(RECORDING)" ] || { echo 'make backtest: give RECORDING=file.itch, and STRATEGY=crate for your own' >&2; exit 2; }
	@$(if $(STRATEGY),image/strategy $(STRATEGY) > /dev/null,image/compile --quiet backtest)
	@target/$(if $(STRATEGY),strategy,$(TARGET)/release)/quietcore-backtest $(RECORDING) \
	    $(if $(STRATEGY),--strategy $(STRATEGY)/strategy.toml)

sim: setup
	image/compile --quiet simulator
	target/$(TARGET)/release/quietcore-simulator $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

reproducible: setup
	@./image/as-root image/reproducible

# What `make test` leaves out for time: its story of builds is told only when what they depend on has changed.
certify: export KILLS := 1000
certify: export LINES := 10000000
certify: check
	$(MAKE) sim SEEDS=100000
	./image/as-root image/reproducible
	./image/as-root target/debug/systest stories
	./image/as-root env KERNEL=quietcore target/debug/systest stories
	./image/as-root env KERNEL=rt target/debug/systest stories

story: setup
	@$(CARGO) $(BUILD) systest && ./image/as-root target/debug/systest $(if $(LIST),list,stories $(NAME))

shell: setup
	@$(CARGO) $(BUILD) systest && ./image/as-root target/debug/systest shell

bench: setup
	@$(if $(filter engine,$(AREA)),./image/setup valgrind && image/compile --quiet engine engine-bench)
	@$(CARGO) $(BUILD) systest && ./image/as-root env BOOK_INPUT=$(BOOK_INPUT) target/debug/systest bench $(AREA)

report:
	@$(CARGO) $(BUILD) systest && target/debug/systest report

clean:
	./image/as-root rm -rf target
