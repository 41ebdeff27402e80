#include "grid/support.h"

#include <fmt/format.h>

#include <array>

#include "core/error.h"
#include "grid/grid.h"

namespace qg {
namespace {

constexpr std::array<std::string_view, 3> kStatusNames{"native", "emulated", "unsupported"};

// The sources that the table grids/support.toml names too.
constexpr std::string_view kOurRule = "docs/grid.md, hardware rules";
constexpr std::string_view kTrtSupport = "TensorRT-LLM 1.1 docs: legacy/reference/support-matrix.md";
constexpr std::string_view kTrtBuilder = "TensorRT-LLM 1.1: tensorrt_llm/builder.py";
constexpr std::string_view kPytQuantization = "TensorRT-LLM 1.1 docs: features/quantization.md";
constexpr std::string_view kVllmHardware = "vLLM docs: features/quantization, supported hardware";
constexpr std::string_view kVllmFp8Kv = "vLLM PR #24577";
constexpr std::string_view kVllmKv = "vLLM docs: features/quantization/quantized_kvcache";
constexpr std::string_view kServer = "the server's own documentation";

Support native(std::string reason, std::string_view source) {
  return {SupportStatus::native, std::move(reason), std::string(source)};
}
Support emulated(std::string reason, std::string_view source) {
  return {SupportStatus::emulated, std::move(reason), std::string(source)};
}
Support unsupported(std::string reason, std::string_view source) {
  return {SupportStatus::unsupported, std::move(reason), std::string(source)};
}

std::string weights_in_words(WeightFormat weights) {
  switch (weights) {
    case WeightFormat::fp16:
      return "FP16 weights are multiplied as they are";
    case WeightFormat::fp8:
      return "FP8 weights and activations are multiplied by FP8 tensor cores";
    case WeightFormat::int4_awq:
      return "4-bit weights are meant to be unpacked to FP16 for the multiplication";
    case WeightFormat::int8_sq:
      return "INT8 weights and activations are multiplied by INT8 tensor cores";
  }
  return {};
}

std::string kv_in_words(KvFormat kv) {
  switch (kv) {
    case KvFormat::fp16:
      return "the KV cache is FP16";
    case KvFormat::fp8:
      return "the card converts the FP8 KV cache in hardware";
    case KvFormat::int8:
      return "the card converts the INT8 KV cache in hardware";
  }
  return {};
}

// What any careful engine can make of the pair on this card.
Support by_hardware(const Card& card, WeightFormat weights, KvFormat kv, std::string_view source) {
  const bool soft_weights = weights == WeightFormat::fp8 && !card.has_fp8();
  const bool soft_kv = kv == KvFormat::fp8 && !card.has_fp8();
  if (soft_weights && soft_kv)
    return emulated(fmt::format("{} has no FP8 arithmetic: weights and KV cache are stored in 8 bits and converted to "
                                "FP16 in software (W8A16)",
                                card.label),
                    source);
  if (soft_weights)
    return emulated(fmt::format("{} has no FP8 arithmetic: weights are stored in 8 bits and multiplied as FP16 (W8A16)",
                                card.label),
                    source);
  if (soft_kv)
    return emulated(
        fmt::format("{} has no FP8 conversion: the KV cache is stored in 8 bits and converted in software", card.label),
        source);
  return native(weights_in_words(weights) + "; " + kv_in_words(kv), source);
}

Support on_native(const Card& card, WeightFormat weights, KvFormat kv) {
  if (card.is_cpu())
    return emulated(
        "the CPU reference converts every format in software and multiplies in float: accuracy counts, its "
        "speed is a CPU's",
        kOurRule);
  if (card.cc() < 80)
    return unsupported(fmt::format("kernels need compute capability 8.0 or more; {} has {}.{}", card.label,
                                   card.cc_major, card.cc_minor),
                       kOurRule);
  return by_hardware(card, weights, kv, kOurRule);
}

Support on_tensorrt(const Card& card, WeightFormat weights, KvFormat kv) {
  if (!card.has_fp8() && weights == WeightFormat::fp8)
    return unsupported(fmt::format("TensorRT-LLM runs FP8 weights on Ada and Hopper only; {} is Ampere", card.label),
                       kTrtSupport);
  if (!card.has_fp8() && kv == KvFormat::fp8)
    return unsupported(
        fmt::format("the TensorRT back end lists no FP8 of any kind, so no FP8 KV cache, for Ampere ({}); "
                    "the PyTorch back end and the native engine convert it in software",
                    card.label),
        kTrtSupport);
  if (kv == KvFormat::int8)
    return native(weights_in_words(weights) + "; the INT8 KV cache excludes block reuse and chunked prefill",
                  kTrtBuilder);
  if (kv == KvFormat::fp8 && weights != WeightFormat::fp8)
    return native(weights_in_words(weights) +
                      "; an FP8 KV cache without FP8 weights excludes block reuse and chunked "
                      "prefill",
                  kTrtBuilder);
  if (weights == WeightFormat::int8_sq)
    return native(weights_in_words(weights) +
                      "; Model Optimizer does not make this checkpoint for Llama 3 and Mistral, "
                      "`quantgrid quantize --weights int8_sq` does",
                  kTrtSupport);
  return native(weights_in_words(weights) + "; " + kv_in_words(kv), kTrtSupport);
}

Support on_pytorch(const Card& card, WeightFormat weights, KvFormat kv) {
  if (weights == WeightFormat::int8_sq)
    return unsupported("the PyTorch back end has no INT8 SmoothQuant; the TensorRT back end has", kPytQuantization);
  if (kv == KvFormat::int8)
    return unsupported("the PyTorch back end has no INT8 KV cache; the TensorRT back end has", kPytQuantization);
  if (!card.has_fp8() && weights == WeightFormat::fp8)
    return unsupported(fmt::format("TensorRT-LLM runs FP8 weights on Ada and Hopper only; {} is Ampere", card.label),
                       kPytQuantization);
  if (!card.has_fp8() && kv == KvFormat::fp8)
    return emulated(fmt::format("{} has no FP8 conversion: the KV cache is stored in 8 bits and converted in software, "
                                "only with block reuse and chunked prefill switched off",
                                card.label),
                    kPytQuantization);
  if (kv == KvFormat::fp8 && weights != WeightFormat::fp8)
    return native(weights_in_words(weights) +
                      "; an FP8 KV cache without FP8 weights needs block reuse and chunked prefill "
                      "switched off (TensorRT-LLM PR #8862)",
                  kPytQuantization);
  return native(weights_in_words(weights) + "; " + kv_in_words(kv), kPytQuantization);
}

Support on_vllm(const Card& card, WeightFormat weights, KvFormat kv) {
  if (kv == KvFormat::int8) return unsupported("vLLM documents FP8 as its only quantized KV cache", kVllmKv);
  const bool soft_kv_only = !card.has_fp8() && kv == KvFormat::fp8 && weights != WeightFormat::fp8;
  return by_hardware(card, weights, kv, soft_kv_only ? kVllmFp8Kv : kVllmHardware);
}

Support on_openai(const Card& card, WeightFormat weights, KvFormat kv) {
  if (card.is_cpu())
    return emulated("whatever the server runs; on a CPU every format is converted in software", kServer);
  Support s = by_hardware(card, weights, kv, kServer);
  s.reason = "whatever the server runs; what the card makes of these formats: " + s.reason;
  return s;
}

}  // namespace

std::string_view to_string(SupportStatus status) {
  return kStatusNames[static_cast<size_t>(status)];
}

std::optional<SupportStatus> parse_support_status(std::string_view name) {
  for (size_t i = 0; i < kStatusNames.size(); ++i)
    if (kStatusNames[i] == name) return static_cast<SupportStatus>(i);
  return std::nullopt;
}

Support support(EngineId engine, const Card& card, WeightFormat weights, KvFormat kv) {
  if (engine == EngineId::native) return on_native(card, weights, kv);
  if (engine == EngineId::openai) return on_openai(card, weights, kv);
  const EngineSpec& spec = engine_spec(engine);
  if (card.is_cpu())
    return unsupported(fmt::format("{} is driven on NVIDIA cards only, not on a CPU", spec.label), kOurRule);
  if (card.cc() < 80)
    return unsupported(fmt::format("Quantgrid drives {} from compute capability 8.0 on; {} has {}.{}", spec.label,
                                   card.label, card.cc_major, card.cc_minor),
                       kOurRule);
  switch (engine) {
    case EngineId::trtllm_tensorrt:
      return on_tensorrt(card, weights, kv);
    case EngineId::trtllm_pytorch:
      return on_pytorch(card, weights, kv);
    case EngineId::vllm:
      return on_vllm(card, weights, kv);
    case EngineId::native:
    case EngineId::openai:
      break;
  }
  throw Error("unknown engine");
}

Support support(const Grid& grid, const Case& c, EngineId engine) {
  return support(engine, grid.card(c.gpu), c.weights, c.kv);
}

ComputePath expected_path(const Card& card, WeightFormat weights) {
  const bool soft = weights == WeightFormat::fp8 && !card.is_cpu() && !card.has_fp8();
  if (soft) return ComputePath::w8a16_fp8;
  switch (weights) {
    case WeightFormat::fp8:
      return ComputePath::w8a8_fp8;
    case WeightFormat::int4_awq:
      return ComputePath::w4a16;
    case WeightFormat::int8_sq:
      return ComputePath::w8a8_int8;
    case WeightFormat::fp16:
      break;
  }
  return ComputePath::w16a16;
}

}  // namespace qg
