#!/usr/bin/env bash
# Every test that a machine without a GPU can run. `make test` calls it after setup and model.
#   scripts/test.sh          checks, unit and golden tests, the parsers under AddressSanitizer, 10 s of each fuzzer
#   scripts/test.sh --long   the whole suite also under AddressSanitizer with UBSan and under ThreadSanitizer, 60 s of
#                            each fuzzer, load tests (tests/load)
# The last line counts every test that ran.
set -euo pipefail
cd "$(dirname "$0")/.."
long=0
[[ "${1:-}" == --long ]] && long=1

say() { echo "== test: $*"; }
passed=0
failed=0
failures=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# step NAME COMMAND...: a command that passes or fails as one.
step() {
  local name=$1 started=$SECONDS
  shift
  say "$name"
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    failures+=("$name")
  fi
  say "$name took $((SECONDS - started)) s"
}

# run_ctest NAME PRESET ARGS...: counts each of ctest's tests.
run_ctest() {
  local name=$1 preset=$2 started=$SECONDS status=0
  shift 2
  say "$name"
  # Its status is kept, not obeyed: the steps behind it run all the same.
  ctest --test-dir "build/$preset" -j2 --output-on-failure --no-tests=error "$@" >"$log" 2>&1 || status=$?
  grep -v -E '^( *Start +[0-9]+:|.* +Passed +)' "$log" || true
  local bad all
  read -r bad all < <(sed -n 's/.*, \([0-9]*\) tests failed out of \([0-9]*\).*/\1 \2/p' "$log") || true
  if [[ -z "${all:-}" ]]; then
    bad=1 all=1
  fi
  passed=$((passed + all - bad))
  failed=$((failed + bad))
  ((status == 0 && bad == 0)) || failures+=("$name")
  say "$name took $((SECONDS - started)) s"
}

# build_tests PRESET FOLDER...: false when they do not build, which counts as a failure.
build_tests() {
  local preset=$1 targets=()
  shift
  for folder in "$@"; do
    [[ $folder == gpu ]] && continue  # needs a card; compiled by scripts/compile_cuda.sh
    compgen -G "tests/$folder/*_test.cc" >/dev/null && targets+=("test_$folder")
  done
  ((${#targets[@]})) || return 1
  [[ $preset == cpu ]] && targets+=(quantgrid)
  scripts/build.sh "$preset" "${targets[@]}" && return 0
  failed=$((failed + 1))
  failures+=("build of $preset")
  return 1
}

# Sanitizers see OpenBLAS's own threads badly, and the CPUs are few.
export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-2}
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1

parsers=(core checkpoint tokenizer grid record)
folders=()
for folder in tests/*/; do
  folder=$(basename "$folder")
  compgen -G "tests/$folder/*_test.cc" >/dev/null && folders+=("$folder")
done
label_pattern() { local IFS='|'; echo "^($*)\$"; }
no_load=(-LE '^load$')

step "checks of the sources" scripts/check.sh
if build_tests cpu "${folders[@]}"; then
  run_ctest "unit and golden tests" cpu "${no_load[@]}"
fi
if ((long)); then
  if build_tests asan "${folders[@]}"; then
    run_ctest "everything under AddressSanitizer and UBSan" asan "${no_load[@]}"
  fi
  if build_tests tsan "${folders[@]}"; then
    # OpenBLAS's own threads synchronize in a way that ThreadSanitizer cannot see: one thread there.
    OPENBLAS_NUM_THREADS=1 run_ctest "everything under ThreadSanitizer" tsan "${no_load[@]}"
  fi
  # One at a time: each keeps both processors busy.
  run_ctest "load tests" cpu -L '^load$' -j1
  if [[ -x build/asan/test_load ]]; then
    run_ctest "load tests under AddressSanitizer and UBSan" asan -L '^load$' -j1
  fi
  if [[ -x build/tsan/test_load ]]; then
    OPENBLAS_NUM_THREADS=1 run_ctest "load tests under ThreadSanitizer" tsan -L '^load$' -j1
  fi
  step "fuzzers, 60 s each" scripts/fuzz.sh 60
else
  # In the fuzzers' build, so that the parsers are compiled with sanitizers once.
  if build_tests fuzz "${parsers[@]}"; then
    run_ctest "parsers under AddressSanitizer and UBSan" fuzz -L "$(label_pattern "${parsers[@]}")"
  fi
  step "fuzzers, 10 s each" scripts/fuzz.sh 10
fi
if [[ -x build/cpu/quantgrid ]]; then
  step "results/summary.json and README's tables are current" env QUANTGRID=build/cpu/quantgrid scripts/results.sh --check
fi
step "CUDA code compiles" scripts/compile_cuda.sh 90a

if ((failed)); then
  printf 'test: failed: %s\n' "${failures[@]}"
fi
echo "test: the whole run took $((SECONDS / 60)) min $((SECONDS % 60)) s"
echo "$passed passed, $failed failed"
((failed == 0))
