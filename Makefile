# The front door: each target is a line or two over CMake's presets. ARGS goes to `sluice serve`.
JOBS ?= $(shell sh tools/setup/jobs.sh)
ARGS ?=
FUZZ_TARGETS ?=
.NOTPARALLEL:
.PHONY: run build test cuda asan tsan fuzz fuzz-coverage bench lint format setup

run: build  ## serve the embedded model on 127.0.0.1:8000
	exec build/release/bin/sluice serve $(ARGS)

build: setup  ## build/release/bin/sluice
	cmake --preset release && cmake --build --preset release -j $(JOBS) --target sluice

test:  ## build and run every test
	bash tools/setup/install_packages.sh test
	cmake --preset release && cmake --build --preset release -j $(JOBS)
	bash tools/test/run_tests.sh

cuda: setup  ## build/cuda/bin/sluice with the CUDA backend, for CUDA_ARCHITECTURES or every card
	cmake --preset cuda $(if $(CUDA_ARCHITECTURES),-DSLUICE_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES))
	cmake --build --preset cuda -j $(JOBS) --target $(or $(CUDA_TARGET),sluice)

asan tsan: setup  ## the unit tests under address + undefined, or thread, sanitizer
	cmake --preset $@ -DSLUICE_BUILD_BENCHMARKS=OFF && cmake --build --preset $@ -j $(JOBS) && ctest --preset $@

fuzz:  ## fuzz every parser or FUZZ_TARGETS, FUZZ_SECONDS each (60); findings in build/fuzz/findings
	bash tools/setup/install_packages.sh fuzz
	cmake --preset fuzz && cmake --build --preset fuzz -j $(JOBS) $(if $(FUZZ_TARGETS),--target $(FUZZ_TARGETS:=_fuzz))
	bash tests/fuzz/run.sh build/fuzz/bin build/fuzz $(FUZZ_TARGETS)

fuzz-coverage:  ## line coverage of each parser by its fuzzer's seeds and grown corpus
	bash tools/setup/install_packages.sh fuzz
	cmake --preset fuzz-coverage && cmake --build --preset fuzz-coverage -j $(JOBS)
	bash tests/fuzz/coverage.sh build/fuzz-coverage build/fuzz/corpus

bench: setup  ## the benchmarks of every op
	cmake --preset release && cmake --build --preset release -j $(JOBS)
	for b in build/release/bin/*_bench; do [ ! -x $$b ] || $$b || exit 1; done

lint:  ## format, clang-tidy, floors, headers, names, paths
	bash tools/setup/install_packages.sh lint
	cmake --preset release --log-level=WARNING
	bash tools/lint/run.sh

format:  ## rewrite changed files with clang-format
	bash tools/setup/install_packages.sh lint
	python3 tools/lint/changed_files.py --suffix .h .cc | xargs -r clang-format-16 -i

setup:  ## install the packages that the build needs
	bash tools/setup/install_packages.sh build
