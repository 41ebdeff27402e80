#include "engines/script_prologue.h"

#include <fmt/format.h>

#include "engines/run_installed.h"
#include "grid/commands.h"

namespace qg {
namespace {

constexpr const char* kIntroduction = R"sh(#
# Paths are relative to the folder in which `quantgrid plan` ran: run the script from there.
# Results: RESULTS/MODEL/CARD/WEIGHTS/kv_KV/WORKLOAD/ with total.json (the engine's report), total.log (all that it
# printed), total.kv (cache type asked for and reported), total.seconds, and total.done when all was well. What was
# done with the same command is skipped when the script runs again. A report whose cache type is not the case's is marked total.invalid.
# GPU=N takes another card than the first, or than the first that CUDA_VISIBLE_DEVICES allows. Exit code: 0 all done,
# 2 some cases failed or are invalid, 4 the engine or the card is not here.
set -euo pipefail
)sh";

constexpr const char* kSteps = R"sh(
bad_cases=0

# done_with STEM COMMAND...: was this very command done before?
done_with() {
  local stem=$1; shift
  [ -f "$stem.done" ] && [ "$(cat "$stem.command")" = "$(printf '%q ' "$@")" ]
}

# mark_done STEM COMMAND...
mark_done() {
  local stem=$1; shift
  printf '%q ' "$@" > "$stem.command" && touch "$stem.done"
}

# need FOLDER: it must be there.
need() {
  [ -d "$1" ] || { echo "missing folder: $1" >&2; return 1; }
}

# make_folder FOLDER COMMAND...: runs the command unless the folder is there.
make_folder() {
  local folder=$1; shift
  [ -d "$folder" ] || "$@" || { echo "could not make $folder" >&2; return 1; }
}

# make_file FILE COMMAND...: runs the command unless the file is there.
make_file() {
  local file=$1; shift
  [ -f "$file" ] || "$@" || { echo "could not make $file" >&2; return 1; }
}

# build_engine FOLDER COMMAND...: builds unless this command did before; keeps build.log, build.seconds and build.bytes.
build_engine() {
  local folder=$1 start; shift
  if done_with "$folder/build" "$@"; then return 0; fi
  mkdir -p "$folder"
  rm -f "$folder/build.done"
  start=$(date +%s)
  if ! "$@" > "$folder/build.log" 2>&1; then
    echo "build failed, see $folder/build.log" >&2
    return 1
  fi
  echo $(( $(date +%s) - start )) > "$folder/build.seconds"
  stat -c %s "$folder/rank0.engine" > "$folder/build.bytes" || return 1
  mark_done "$folder/build" "$@"
}

# measure STEM KV COMMAND...: runs the command, which must leave STEM.json, unless it was done before; then compares the
# cache type that the engine reports.
measure() {
  local stem=$1 kv=$2 report=$1.json start seen; shift 2
  if done_with "$stem" "$@"; then echo "done before: $stem"; return 0; fi
  echo "running: $stem"
  mkdir -p "$(dirname "$stem")"
  rm -f "$stem.done" "$stem.invalid" "$report"
  start=$(date +%s)
  if ! "$@" > "$stem.log" 2>&1; then
    echo "failed, see $stem.log" >&2
    return 1
  fi
  echo $(( $(date +%s) - start )) > "$stem.seconds"
  [ -s "$report" ] || { echo "no report: $report" >&2; return 1; }
  seen=$(reported_kv "$stem.log" "$report")
  { echo "asked for: $kv"; echo "reported: $seen"; grep -i 'kv.cache' "$stem.log" || true; } > "$stem.kv"
  if [ "$seen" != "$kv" ]; then
    echo "INVALID: the KV cache was to be $kv, the engine reports $seen; see $stem.kv" >&2
    touch "$stem.invalid"
    return 1
  fi
  mark_done "$stem" "$@"
}

# run_case ID FUNCTION
run_case() {
  echo "== $1"
  if ! "$2"; then
    echo "case failed: $1" >&2
    bad_cases=$((bad_cases + 1))
  fi
}
)sh";

// The report's engine.kv_cache_dtype is kv_cache_quant_algo after the options were applied: null is the model's type.
constexpr const char* kTrtllmKv = R"sh(
# Cache type that the report names. (TensorRT-LLM 1.x, tensorrt_llm/bench/dataclasses/reporting.py)
reported_kv() {
  case $(grep -o -m 1 '"kv_cache_dtype": *[^,}]*' "$2" || true) in
    *null) echo fp16 ;;
    *'"FP8"'*) echo fp8 ;;
    *'"INT8"'*) echo int8 ;;
    *) echo unknown ;;
  esac
}
)sh";

constexpr const char* kModeloptFolder = R"sh(
# check_folder FOLDER KV: modelopt's layout, and no cache type of its own: it serves both caches.
check_folder() {
  local file="$1/hf_quant_config.json"
  [ -f "$file" ] || { echo "not in the modelopt layout, there is no $file" >&2; return 1; }
  if grep -q '"kv_cache_quant_algo": *"' "$file"; then
    echo "$file fixes a cache type (kv_cache_quant_algo); export the folder without" >&2
    return 1
  fi
}
)sh";

constexpr const char* kTrtllmFolder = R"sh(
# check_folder FOLDER KV: TensorRT-LLM's layout, with this cache type fixed in it.
check_folder() {
  local file="$1/config.json" is
  grep -q '"architecture"' "$file" || { echo "not in TensorRT-LLM's layout: $file" >&2; return 1; }
  case $(grep -o -m 1 '"kv_cache_quant_algo": *[^,}]*' "$file" || true) in
    *'"FP8"'*) is=fp8 ;;
    *'"INT8"'*) is=int8 ;;
    *) is=fp16 ;;
  esac
  [ "$is" = "$2" ] || { echo "$file fixes a $is cache, not $2 (kv_cache_quant_algo)" >&2; return 1; }
}
)sh";

constexpr const char* kVllm = R"sh(
# Cache type in the line of the log that lists the engine's configuration. (vLLM 0.12, vllm/config/vllm.py)
reported_kv() {
  case $(grep -o -m 1 -E "kv_cache_dtype='?[a-z0-9_]+" "$1" || true) in
    *fp8*) echo fp8 ;;
    *auto|*float16) echo fp16 ;;
    *) echo unknown ;;
  esac
}

# check_folder FOLDER KV: the compressed-tensors layout, and no cache type of its own: it serves both caches.
check_folder() {
  local file="$1/config.json"
  grep -q '"quant_method": *"compressed-tensors"' "$file" ||
    { echo "not in the compressed-tensors layout: $file" >&2; return 1; }
  if grep -q '"kv_cache_scheme": *{' "$file"; then
    echo "$file fixes a cache type (kv_cache_scheme); export the folder without" >&2
    return 1
  fi
}
)sh";

std::string engine_functions(EngineId engine) {
  if (engine == EngineId::vllm) return kVllm;
  return std::string(kTrtllmKv) + (engine == EngineId::trtllm_pytorch ? kModeloptFolder : kTrtllmFolder);
}

// Numbers of another card must not stand under this one's name.
std::string card_check(const Card& card) {
  std::string text =
      "# CUDA alone counts the fastest card first, nvidia-smi by the place on the bus.\n"
      "export CUDA_DEVICE_ORDER=PCI_BUS_ID\n"
      "gpu=${GPU:-${CUDA_VISIBLE_DEVICES:-0}}\n"
      "export CUDA_VISIBLE_DEVICES=${gpu%%,*}\n"
      "gpu=$(nvidia-smi -i \"$CUDA_VISIBLE_DEVICES\" --query-gpu=name --format=csv,noheader) || {\n"
      "  echo \"nvidia-smi shows no card $CUDA_VISIBLE_DEVICES${gpu:+: $gpu}\" >&2\n"
      "  exit 4\n"
      "}\n";
  if (card.product_names.empty()) return text;
  text += "case ${gpu#NVIDIA } in\n  ";
  for (size_t i = 0; i < card.product_names.size(); ++i)
    text += (i > 0 ? "|" : "") + shell_quoted(card.product_names[i]);
  return text + ") ;;\n  *) echo \"this script is for " + card.id + ", here is $gpu\" >&2; exit 4 ;;\nesac\n";
}

std::string engine_check(EngineId engine, const Card& card) {
  const auto program = [](std::string_view name, std::string_view install) {
    return fmt::format(
        "command -v {0} > /dev/null || {{ echo \"{0} is not on the PATH; install: {1}\" >&2; exit 4; }}\n", name,
        install);
  };
  const auto version = [&card](std::string_view package, std::string_view expected) {
    return fmt::format(
        "version=$(python3 -c 'from importlib.metadata import version; print(version(\"{0}\"))' 2> /dev/null) ||\n  "
        "version=unknown\n"
        "case $version in\n  {1}*) ;;\n  *) echo \"warning: written for {0} {1}, here is $version\" >&2 ;;\nesac\n"
        "echo \"$version\" > \"$results/{0}.version\"\n"
        "nvidia-smi -q -i \"$CUDA_VISIBLE_DEVICES\" > \"$results/gpu-{2}.txt\"\n",
        package, expected, card.id);
  };
  const EnginePrograms& programs = *engine_programs(engine);
  return program(programs.bench, programs.install) + version(programs.package, programs.written_for);
}

}  // namespace

std::string script_prologue(EngineId engine, const Card& card, const std::filesystem::path& results) {
  return std::string(kIntroduction) + "results=" + shell_quoted(results.string()) + "\nmkdir -p \"$results\"\n" +
         card_check(card) + engine_check(engine, card) + kSteps + engine_functions(engine);
}

std::string script_epilogue() {
  return "\nif [ \"$bad_cases\" -gt 0 ]; then\n  echo \"$bad_cases cases failed or are invalid\" >&2\n  exit 2\nfi\n";
}

}  // namespace qg
