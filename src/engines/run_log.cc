#include "engines/run_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstring>

#include "grid/memory.h"

namespace qg {
namespace {

constexpr size_t kMostReasonBytes = 300;
constexpr double kSilentSeconds = 300;  // workers that wait for a dead one hang; some engines retry, and then say so

// All `words` in this order in one line. rank: of two verdicts in a log the higher counts, of equal ones the first.
struct Pattern {
  std::array<std::string_view, 2> words;
  CaseStatus status;
  std::string_view code, meaning;
  int rank;
};

constexpr std::string_view kOom = "the card's memory did not suffice";
constexpr std::string_view kRefused = "the engine has no kernel for these formats on this card";

constexpr Pattern kPatterns[] = {
    // Out of memory. PyTorch: TensorRT-LLM issue 7818, vLLM pull request 14447.
    {{"OutOfMemoryError", "CUDA out of memory"}, CaseStatus::oom, "cuda_oom", kOom, 3},
    {{"CUDA out of memory. Tried to allocate", ""}, CaseStatus::oom, "cuda_oom", kOom, 3},
    // C++ runtime of TensorRT-LLM: tensorrtllm_backend issues 195 and 281, TensorRT-LLM issue 1060.
    {{"CUDA runtime error in", ": out of memory"}, CaseStatus::oom, "cuda_oom", kOom, 3},
    // TensorRT's builder: optimum-nvidia issue 146, pytorch/TensorRT issue 2836.
    {{"Error Code 2: OutOfMemory", ""}, CaseStatus::oom, "build_oom", kOom, 3},
    {{"Cuda Runtime (out of memory)", ""}, CaseStatus::oom, "build_oom", kOom, 3},
    // vLLM issues 27508, 25350, 18446; vllm-backport issue 18.
    {{"No available memory for the cache blocks", ""},
     CaseStatus::oom,
     "no_cache_memory",
     "beside the weights there is no memory left for the KV cache",
     3},
    {{"KV cache is needed, which is larger than the available KV cache memory", ""},
     CaseStatus::oom,
     "no_cache_memory",
     "one request of this length does not fit into the KV cache",
     3},
    {{"Cuda failure", "out of memory"}, CaseStatus::oom, "cuda_oom", kOom, 3},
    {{"Triton Error [CUDA]: out of memory", ""}, CaseStatus::oom, "cuda_oom", kOom, 3},
    // vLLM, vllm/v1/worker/gpu_worker.py: another program holds the card's memory.
    {{"Free memory on device", "is less than desired GPU memory utilization"},
     CaseStatus::oom,
     "gpu_busy",
     "another program holds the card's memory",
     3},
    // What an engine refuses. TensorRT-LLM issues 2855, 1864, 9253, 1515, 2229.
    {{"FP8 FMHA cannot be enabled", ""}, CaseStatus::skipped_unsupported, "engine_refused", kRefused, 2},
    {{"FMHA kernels are not found", ""}, CaseStatus::skipped_unsupported, "engine_refused", kRefused, 2},
    {{"Assertion failed: Unsupported architecture", ""},
     CaseStatus::skipped_unsupported,
     "engine_refused",
     kRefused,
     2},
    {{"Arch unsupported for CUTLASS", ""}, CaseStatus::skipped_unsupported, "engine_refused", kRefused, 2},
    // tensorrt_llm/_torch/modules/linear.py; tensorrt_llm/_torch/pyexecutor/model_engine.py.
    {{"unsupported quant mode", ""},
     CaseStatus::skipped_unsupported,
     "engine_refused",
     "the engine does not load weights of this format",
     2},
    {{"Overriding KV cache quantization with an invalid type", ""},
     CaseStatus::skipped_unsupported,
     "engine_refused",
     "the engine has no cache of this type",
     2},
    // vLLM issues 4202 and 7714.
    {{"is not supported for the current GPU", "Minimum capability"},
     CaseStatus::skipped_unsupported,
     "engine_refused",
     "the engine does not run this format on this card",
     2},
    {{"type fp8e4nv not supported in this architecture", ""},
     CaseStatus::skipped_unsupported,
     "engine_refused",
     kRefused,
     2},
    // Words that this version does not know: click's and argparse's messages.
    {{"No such option:", ""}, CaseStatus::failed, "wrong_version", "this version of the engine lacks an option", 1},
    {{"error: unrecognized arguments:", ""},
     CaseStatus::failed,
     "wrong_version",
     "this version of the engine lacks an option",
     1},
};

std::string shortened(std::string_view line) {
  while (!line.empty() && std::strchr(" \t", line.front())) line.remove_prefix(1);
  std::string text;
  for (char c : line.substr(0, kMostReasonBytes)) text += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  // Not in the middle of a character of several bytes.
  while (line.size() > kMostReasonBytes && !text.empty() && (static_cast<unsigned char>(text.back()) & 0x80))
    text.pop_back();
  return line.size() > kMostReasonBytes ? text + "…" : text;
}

// The number right after `before`, thousands separated by commas or not.
std::optional<double> number_after(std::string_view line, std::string_view before) {
  const size_t at = line.find(before);
  if (at == std::string_view::npos) return std::nullopt;
  std::string digits;
  for (char c : line.substr(at + before.size())) {
    if (c == ',') continue;
    if (!((c >= '0' && c <= '9') || c == '.') || digits.size() > 20) break;
    digits += c;
  }
  double value = 0;
  const auto [rest, code] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return code == std::errc() && rest != digits.data() ? std::optional<double>(value) : std::nullopt;
}

std::string word_after(std::string_view line, std::string_view before) {
  const size_t at = line.find(before);
  if (at == std::string_view::npos) return {};
  std::string word;
  for (char c : line.substr(at + before.size())) {
    if (word.empty() && (c == '\'' || c == '"' || c == ' ')) continue;
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_' && c != '+') break;
    if (word.size() > 40) break;
    word += c;
  }
  return word;
}

bool looks_like_error(std::string_view line) {
  for (std::string_view word : {"Error: ", "Error]", "[E] ", "error: ", "ERROR", "Exception: ", "Segmentation fault"})
    if (line.find(word) != std::string_view::npos) return true;
  return false;
}

std::string with_line(std::string_view meaning, const std::string& line) {
  return line.empty() ? std::string(meaning) : fmt::format("{}: \"{}\"", meaning, line);
}

}  // namespace

std::optional<double> EngineLog::take_line(std::string_view line) {
  // TensorRT-LLM, cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp. The first cache is a small one, to measure with.
  if (const auto tokens = number_after(line, "GiB for max tokens in paged KV cache ("))
    if (const auto gib = number_after(line, "Allocated ")) {
      cache_gib_ = *gib;
      cache_tokens_ = *tokens;
    }
  // vLLM, vllm/v1/worker/gpu_worker.py and vllm/v1/core/kv_cache_utils.py.
  if (const auto gib = number_after(line, "Available KV cache memory: ")) cache_gib_ = *gib;
  if (const auto tokens = number_after(line, "GPU KV cache size: ")) cache_tokens_ = *tokens;
  if (const std::string word = word_after(line, "kv_cache_dtype="); !word.empty() && kv_word_.empty())
    if (line.find("LLM engine (v") != std::string_view::npos) kv_word_ = word;
  if (const std::string word = word_after(line, "TensorRT-LLM version: "); !word.empty()) version_ = word;
  if (const std::string word = word_after(line, "TensorRT LLM version: "); !word.empty()) version_ = word;
  if (const std::string word = word_after(line, "LLM engine (v"); !word.empty()) version_ = word;

  if (looks_like_error(line)) last_error_ = shortened(line);
  for (const Pattern& p : kPatterns) {
    const size_t at = line.find(p.words[0]);
    if (at == std::string_view::npos) continue;
    if (line.find(p.words[1], at + p.words[0].size()) == std::string_view::npos) continue;
    if (!verdict_ || p.rank > rank_) {
      verdict_ = LogVerdict{p.status, p.code, p.meaning, shortened(line)};
      rank_ = p.rank;
    }
    return kSilentSeconds;
  }
  return std::nullopt;
}

void EngineLog::take(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find_first_of("\r\n", at), text.size());
    take_line(text.substr(at, end - at));
    at = end + 1;
  }
}

std::optional<KvFormat> EngineLog::kv() const {
  if (kv_word_ == "auto" || kv_word_.ends_with("float16")) return KvFormat::fp16;
  if (kv_word_.starts_with("fp8")) return KvFormat::fp8;
  return std::nullopt;
}

std::optional<double> EngineLog::cache_bytes_per_token() const {
  // Two decimals are printed: below a quarter of a GiB the quotient says little.
  if (cache_gib_ < 0.25 || cache_tokens_ < 1) return std::nullopt;
  return cache_gib_ * 1024 * 1024 * 1024 / cache_tokens_;
}

RunEnd judge_end(const ProcessResult& result, const EngineLog& log, double limit_s) {
  if (result.ended_well()) return {};
  if (result.end == ProcessEnd::not_started) return {CaseStatus::failed, "not_started", result.problem};
  if (result.end == ProcessEnd::stopped) return {CaseStatus::failed, "stopped", "stopped before its end"};
  if (const auto& v = log.verdict()) return {v->status, std::string(v->code), with_line(v->meaning, v->line)};
  if (result.end == ProcessEnd::limit)
    return {CaseStatus::timeout, "time_limit",
            with_line(fmt::format("did not end within {:.0f} s", limit_s), log.last_error())};
  if (result.end == ProcessEnd::signalled && result.code == SIGKILL)
    // TensorRT-LLM issues 1728 and 2539: the kernel kills who takes too much main memory.
    return {CaseStatus::oom, "killed", "was killed (signal 9), most often for lack of main memory"};
  if (result.end == ProcessEnd::signalled)
    return {CaseStatus::crash, fmt::format("signal_{}", result.code),
            with_line(fmt::format("crashed (signal {}, {})", result.code, strsignal(result.code)), log.last_error())};
  // Shells and MPI turn a signal into 128 + its number.
  if (result.code > 128 && result.code < 128 + NSIG)
    return {CaseStatus::crash, fmt::format("signal_{}", result.code - 128),
            with_line(fmt::format("crashed (signal {}, {})", result.code - 128, strsignal(result.code - 128)),
                      log.last_error())};
  return {CaseStatus::failed, fmt::format("exit_{}", result.code),
          with_line(fmt::format("ended with exit code {}", result.code), log.last_error())};
}

CacheCheck check_cache(KvFormat wanted, std::optional<KvFormat> named, const std::string& word,
                       const std::optional<ModelShape>& shape, std::optional<double> bytes_per_token) {
  CacheCheck check;
  check.reported = named;
  if (named && *named != wanted) {
    check.mismatch = fmt::format("the case wants a {} KV cache, the engine reports {} (\"{}\")", to_string(wanted),
                                 to_string(*named), word);
    return check;
  }
  if (!named && !word.empty()) {
    check.mismatch = fmt::format("the case wants a {} KV cache, the engine reports \"{}\", which is none of ours",
                                 to_string(wanted), word);
    return check;
  }
  if (!shape || !bytes_per_token) {
    if (!named) check.mismatch = "the engine did not say which KV cache it used";
    return check;
  }
  // Blocks are rounded, pools have a little more than their tokens: a factor of two is what tells the formats apart.
  const double expected = static_cast<double>(kv_bytes_per_token(*shape, wanted));
  const double ratio = *bytes_per_token / expected;
  if (ratio < 0.75 || ratio > 1.4)
    check.mismatch =
        fmt::format("the engine allocated {:.0f} bytes of KV cache a token; a {} cache of this model takes {:.0f}",
                    *bytes_per_token, to_string(wanted), expected);
  else if (!named)
    check.reported = wanted;
  return check;
}

}  // namespace qg
