#include "record/fields.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "core/error.h"

namespace qg {
namespace {

std::vector<Field<Record>> make_record_fields() {
  using R = Record;
  return {
      {"run_id", &R::run_id, "the run that measured it; a row of `runs`"},
      {"attempt", &R::attempt, "1, 2, … for the same case_key in the same journal"},
      {"case_key", &R::case_key, "16 hexadecimal digits over all that determines the result"},
      {"case_id", &R::case_id, "`model/gpu/weights/kv_{kv}`"},
      {"case_number", &R::case_number, "number in the grid file; absent for implied cases and outside a grid"},
      {"section", &R::section, "`must`, `baseline`, `int8` or `implied`"},
      {"baseline_case_id", &R::baseline_case_id, "the case that this one is compared with"},
      {"model", &R::model, "`llama-3.2-3b`, `llama-3.1-8b`, `mistral-7b`, or a model of the user's grid"},
      {"weights", &R::weights, "`fp16`, `fp8`, `int4_awq` or `int8_sq`"},
      {"kv", &R::kv, "`fp16`, `fp8` or `int8`"},
      {"target", &R::target, "card that the case is for"},
      {"measured_on", &R::measured_on, "card that ran it; `cpu` for the CPU executor"},
      {"cross_target", &R::cross_target, "target and measured_on differ: accuracy counts, speed is not the target's"},
      {"synthetic", &R::synthetic, "random weights: speed only, accuracy unmeasured"},
      {"executor", &R::executor, "`cpu` or `cuda`; absent for other engines"},
      {"engine", &R::engine,
       "`native`, `native/served`, `tensorrt-llm/tensorrt`, `tensorrt-llm/pytorch`, `vllm`, `openai`, `openai/NAME`"},
      {"engine_version", &R::engine_version, "version that the engine reports"},
      {"engine_flags", &R::engine_flags, "flags that change what runs"},
      {"suite", &R::suite, "`speed`, `accuracy`, `memory`, `energy` or `quantize`"},
      {"phase", &R::phase, "`prefill`, `decode` or `e2e`"},
      {"metric", &R::metric, "name in the table of metrics"},
      {"stat", &R::stat, "`mean`, `geomean`, `p50`, `p90`, `p99`, `max`, `sum` or `ratio`"},
      {"value", &R::value, "the value"},
      {"unit", &R::unit, "its unit"},
      {"n", &R::n, "samples behind the value"},
      {"n_eff", &R::n_eff, "independent samples behind the value, where they are fewer"},
      {"sd", &R::sd, "standard deviation of the samples"},
      {"ci_lo", &R::ci_lo, "lower end of the interval"},
      {"ci_hi", &R::ci_hi, "upper end of the interval"},
      {"ci_level", &R::ci_level, "its level, 0.95"},
      {"ci_method", &R::ci_method, "`t_log`, `slices`, `block_bootstrap`, `binomial` or `mcnemar`"},
      {"round", &R::round, "round of a single sample; absent for aggregates"},
      {"rep", &R::rep, "repetition within a round; absent for aggregates"},
      {"workload", &R::workload,
       "`decode/b8`, `1000/1000`, `prefill/512`, `rate/8`, `accuracy`, `memory`, `quantize`, `build`"},
      {"isl", &R::isl, "tokens in of a request"},
      {"osl", &R::osl, "tokens out of a request"},
      {"batch", &R::batch, "requests that are started together"},
      {"rounds", &R::rounds, "repetitions that the value summarizes"},
      {"context_len", &R::context_len, "tokens of context that memory is counted at"},
      {"concurrency", &R::concurrency, "requests that are open at once, at most"},
      {"request_rate", &R::request_rate, "requests/s that are offered"},
      {"ttft_limit_ms", &R::ttft_limit_ms, "time to the first token within which a request counts as good"},
      {"tpot_limit_ms", &R::tpot_limit_ms, "time a later token within which a request counts as good"},
      {"batch_achieved", &R::batch_achieved, "mean number of sequences in a decode step"},
      {"window_s", &R::window_s, "seconds that were measured"},
      {"num_requests", &R::num_requests, "requests that were offered"},
      {"num_failed", &R::num_failed, "requests that failed"},
      {"dataset", &R::dataset, "text or request set, by name and version"},
      {"protocol", &R::protocol,
       "how it was measured, in words: windows, stride, BOS of a text; arrivals, warm-up, limits of a served load"},
      {"workload_sha", &R::workload_sha, "SHA-256 of the token ids"},
      {"seed", &R::seed, "seed of the workload"},
      {"checkpoint", &R::checkpoint, "name of the checkpoint folder"},
      {"base_ckpt_sha", &R::base_ckpt_sha, "SHA-256 of the original model"},
      {"ckpt_sha", &R::ckpt_sha, "SHA-256 of the checkpoint that ran"},
      {"recipe_sha", &R::recipe_sha, "SHA-256 of the quantization recipe"},
      {"tokenizer_sha", &R::tokenizer_sha, "SHA-256 of the tokenizer"},
      {"compute_path", &R::compute_path,
       "`w16a16`, `w16a16_bf16`, `w8a8_fp8`, `w8a8_int8`, `w4a16` or `w8a16_fp8`: what ran"},
      {"kernels", &R::kernels, "kernels that ran, with their share of the time where it is known"},
      {"roofline_share", &R::roofline_share, "value over what the data sheet allows, 0 to 1"},
      {"sm_mhz_mean", &R::sm_mhz_mean, "mean SM clock during the window"},
      {"sm_mhz_min", &R::sm_mhz_min, "least SM clock"},
      {"sm_mhz_ref", &R::sm_mhz_ref, "SM clock of this machine when nothing holds it back"},
      {"mem_mhz", &R::mem_mhz, "memory clock"},
      {"power_w_mean", &R::power_w_mean, "mean power"},
      {"power_limit_w", &R::power_limit_w, "power limit"},
      {"temp_c_max", &R::temp_c_max, "highest temperature"},
      {"throttle_reasons", &R::throttle_reasons, "reasons that the driver gave for lower clocks"},
      {"throttle_pct", &R::throttle_pct, "share of the window with a reason, percent"},
      {"energy_j", &R::energy_j, "energy of the window"},
      {"idle_w", &R::idle_w, "power before the window"},
      {"energy_source", &R::energy_source, "counter or sampled power"},
      {"status", &R::status,
       "`ok`, `oom`, `timeout`, `crash`, `failed`, `skipped_unsupported`, `skipped_no_memory`, `invalid`"},
      {"valid", &R::valid, "false: kept, but not used in a verdict"},
      {"invalid_reasons", &R::invalid_reasons, "codes that say why"},
      {"verdict", &R::verdict, "`FASTER`, `SLOWER`, `SAME`, `UNDECIDED`, `NON_INFERIOR` or `INFERIOR`"},
      {"error_code", &R::error_code, "short code of the failure"},
      {"error_msg", &R::error_msg, "the failure in a sentence"},
      {"started_at", &R::started_at, "UTC"},
      {"ended_at", &R::ended_at, "UTC"},
  };
}

std::vector<Field<Environment>> make_environment_fields() {
  using E = Environment;
  return {
      {"schema_version", &E::schema_version, "version of this page, 1"},
      {"run_id", &E::run_id, "UUIDv7 of one invocation"},
      {"started_at", &E::started_at, "UTC"},
      {"machine", &E::machine, "a name for people; never the host's"},
      {"cpu", &E::cpu, "processor as the system names it"},
      {"cores", &E::cores, "logical processors that the run may use"},
      {"memory_bytes", &E::memory_bytes, "physical memory"},
      {"os", &E::os, "system and release"},
      {"virt", &E::virt, "kind of virtual machine or container, where known"},
      {"gpu", &E::gpu, "product name; absent without one"},
      {"gpu_count", &E::gpu_count, "GPUs that the run may use"},
      {"gpu_memory_bytes", &E::gpu_memory_bytes, "memory of one GPU"},
      {"pcie_gen", &E::pcie_gen, "PCIe generation of the link"},
      {"pcie_width", &E::pcie_width, "PCIe lanes of the link"},
      {"sm", &E::sm, "compute capability, `9.0`"},
      {"driver", &E::driver, "GPU driver"},
      {"cuda", &E::cuda, "CUDA runtime"},
      {"vbios", &E::vbios, "video BIOS"},
      {"ecc", &E::ecc, "error correction: on or off"},
      {"mig", &E::mig, "partition of the GPU, where there is one"},
      {"version", &E::version, "version of quantgrid"},
      {"commit", &E::commit, "commit of the build"},
      {"build", &E::build, "compiler and options of the build"},
      {"kernels_hash", &E::kernels_hash, "hash over src/kernels and src/runtime"},
  };
}

template <typename Member>
inline constexpr bool kIsJson = false;
template <typename T>
inline constexpr bool kIsJson<Json T::*> = true;

[[noreturn]] void wrong_type(std::string_view key, std::string_view wanted, const Json& value,
                             const std::string& where) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "…";
  throw Error("key \"" + std::string(key) + "\" should be " + std::string(wanted) + ", is " + text, where);
}

int64_t whole_number(std::string_view key, const Json& value, const std::string& where) {
  const bool too_large = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (!value.is_number_integer() || too_large) wrong_type(key, "a whole number below 2^63", value, where);
  return value.get<int64_t>();
}

void read_value(std::string& out, std::string_view key, const Json& value, const std::string& where) {
  if (!value.is_string()) wrong_type(key, "a string", value, where);
  out = value.get<std::string>();
}
void read_value(int64_t& out, std::string_view key, const Json& value, const std::string& where) {
  out = whole_number(key, value, where);
}
void read_value(std::optional<int64_t>& out, std::string_view key, const Json& value, const std::string& where) {
  out = whole_number(key, value, where);
}
void read_value(std::optional<double>& out, std::string_view key, const Json& value, const std::string& where) {
  if (!value.is_number() || !std::isfinite(value.get<double>())) wrong_type(key, "a finite number", value, where);
  out = value.get<double>();
}
void read_value(bool& out, std::string_view key, const Json& value, const std::string& where) {
  if (!value.is_boolean()) wrong_type(key, "true or false", value, where);
  out = value.get<bool>();
}
void read_value(Json& out, std::string_view key, const Json& value, const std::string& where) {
  if (!value.is_array()) wrong_type(key, "a list", value, where);
  out = value;
}

// An empty text, an absent optional and a null list are left out.
void write_value(Json& out, std::string_view key, const std::string& value) {
  if (!value.empty()) out[std::string(key)] = value;
}
void write_value(Json& out, std::string_view key, int64_t value) {
  out[std::string(key)] = value;
}
template <typename V>
void write_value(Json& out, std::string_view key, const std::optional<V>& value) {
  if (value) out[std::string(key)] = *value;
}
void write_flag(Json& out, std::string_view key, bool value) {
  out[std::string(key)] = value;
}
void write_list(Json& out, std::string_view key, const Json& value) {
  if (!value.is_null()) out[std::string(key)] = value;
}

}  // namespace

const std::vector<Field<Record>>& record_fields() {
  static const std::vector<Field<Record>> fields = make_record_fields();
  return fields;
}

const std::vector<Field<Environment>>& environment_fields() {
  static const std::vector<Field<Environment>> fields = make_environment_fields();
  return fields;
}

template <typename T>
std::string_view type_name(const Field<T>& field) {
  constexpr std::string_view kNames[] = {"text", "integer", "integer", "number", "yes/no", "list"};
  return kNames[field.member.index()];
}

template <typename T>
Json fields_to_json(const T& value, const std::vector<Field<T>>& fields) {
  Json out = Json::object();
  for (const Field<T>& field : fields) {
    std::visit(
        [&](auto member) {
          using Member = decltype(member);
          if constexpr (std::is_same_v<Member, bool T::*>)
            write_flag(out, field.name, value.*member);
          else if constexpr (kIsJson<Member>)
            write_list(out, field.name, value.*member);
          else
            write_value(out, field.name, value.*member);
        },
        field.member);
  }
  for (const auto& [key, kept] : value.more.items()) out[key] = kept;
  return out;
}

template <typename T>
T fields_from_json(const Json& object, const std::vector<Field<T>>& fields, const std::string& where,
                   const std::vector<std::string_view>& known_elsewhere) {
  if (!object.is_object()) throw Error("should be a JSON object", where);
  T out;
  for (const auto& [key, value] : object.items()) {
    if (std::find(known_elsewhere.begin(), known_elsewhere.end(), key) != known_elsewhere.end()) continue;
    const auto field =
        std::find_if(fields.begin(), fields.end(), [&key = key](const Field<T>& f) { return f.name == key; });
    if (field == fields.end()) {
      out.more[key] = value;
    } else if (!value.is_null()) {
      std::visit([&, &key = key, &value = value](auto member) { read_value(out.*member, key, value, where); },
                 field->member);
    }
  }
  return out;
}

template std::string_view type_name(const Field<Record>&);
template std::string_view type_name(const Field<Environment>&);
template Json fields_to_json(const Record&, const std::vector<Field<Record>>&);
template Json fields_to_json(const Environment&, const std::vector<Field<Environment>>&);
template Record fields_from_json(const Json&, const std::vector<Field<Record>>&, const std::string&,
                                 const std::vector<std::string_view>&);
template Environment fields_from_json(const Json&, const std::vector<Field<Environment>>&, const std::string&,
                                      const std::vector<std::string_view>&);

}  // namespace qg
