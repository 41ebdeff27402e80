#!/usr/bin/env bash
# Builds the fuzzers and runs each for a time, two at once: scripts/fuzz.sh SECONDS [NAME...]
# A fuzzer works on a copy of its seeds, so that what it finds stays in build/fuzz/work; an input that crashes is kept in
# build/fuzz/crashes and belongs, once mended, into the seeds.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?usage: scripts/fuzz.sh SECONDS [NAME...]}
shift
names=("$@")
if ((${#names[@]} == 0)); then
  for source in tests/fuzz/*_fuzz.cc; do
    [[ -e "$source" ]] && names+=("$(basename "$source" .cc)")
  done
fi
if ((${#names[@]} == 0)); then
  echo "fuzz: there is no tests/fuzz/*_fuzz.cc"
  exit 0
fi
scripts/build.sh fuzz "${names[@]}"

work=build/fuzz/work
crashes=build/fuzz/crashes
mkdir -p "$work" "$crashes"
ASAN_SYMBOLIZER_PATH=$(command -v llvm-symbolizer-16 llvm-symbolizer-14 llvm-symbolizer | head -1 || true)
export ASAN_SYMBOLIZER_PATH
echo "== fuzz: ${#names[@]} fuzzers, $seconds s each, two at once"

run_one() {
  local name=$1
  local seeds=tests/fuzz/corpus/$name
  rm -rf "${work:?}/$name"
  mkdir -p "$work/$name"
  [[ -d "$seeds" ]] && cp -r "$seeds/." "$work/$name/"
  local status=0
  "build/fuzz/$name" "$work/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
    -print_final_stats=1 -artifact_prefix="$crashes/$name-" >"$work/$name.log" 2>&1 || status=$?
  local executions
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$name.log")
  if ((status == 0)); then
    echo "fuzz: $name: ${executions:-0} executions, no finding"
  else
    tail -40 "$work/$name.log"
    echo "fuzz: $name: FAILED (exit $status); the input is in $crashes, the log in $work/$name.log"
    return 1
  fi
}

failed=0
running=()
wait_all() {
  for job in "${running[@]}"; do
    wait "$job" || failed=$((failed + 1))
  done
  running=()
}
for name in "${names[@]}"; do
  run_one "$name" &
  running+=($!)
  ((${#running[@]} < 2)) || wait_all
done
wait_all
echo "fuzz: $((${#names[@]} - failed)) passed, $failed failed"
((failed == 0))
