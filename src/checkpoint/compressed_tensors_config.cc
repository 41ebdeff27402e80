#include "checkpoint/compressed_tensors.h"
#include "checkpoint/hf_quantized.h"
#include "core/error.h"

namespace qg {
namespace {

[[noreturn]] void not_run(const std::string& what, const std::string& where) {
  throw Error(what + " is not supported", where,
              "run are FP8 (per tensor or channel), INT8 (per channel) and 4-bit weights in groups, all linear layers "
              "alike");
}

struct Arguments {
  int64_t bits = 0, group_size = 0;
  std::string type, strategy;
  bool symmetric = true, dynamic = false;
};

Arguments parse_arguments(const JsonReader& reader) {
  Arguments a;
  a.bits = reader.get_int("num_bits", 8);
  a.type = reader.get_string("type", "int");
  a.symmetric = reader.get_bool("symmetric", true);
  if (reader.has("dynamic") && reader.get("dynamic").is_string())
    not_run("\"dynamic\": \"" + reader.get_string("dynamic").substr(0, 50) + "\"", reader.where());
  a.dynamic = reader.get_bool("dynamic", false);
  if (reader.has("group_size")) a.group_size = reader.get_int("group_size", {}, -1, 1 << 20);
  a.strategy = reader.get_string("strategy", a.group_size > 0 ? "group" : "tensor");
  if (reader.has("actorder")) {
    const std::string order = reader.get("actorder").is_string() ? reader.get_string("actorder") : "group";
    if (order != "weight" && order != "static")
      not_run("\"actorder\": \"" + order.substr(0, 50) + "\"", reader.where());
  }
  return a;
}

void parse_weights(const Arguments& w, const std::string& where, QuantSpec& quant) {
  if (w.dynamic) not_run("weights that are quantized at run time", where);
  if (w.bits == 8 && w.type == "float" && (w.strategy == "tensor" || w.strategy == "channel")) {
    quant.weights = WeightFormat::fp8;
    quant.weight_scaling = w.strategy == "tensor" ? WeightScaling::tensor : WeightScaling::channel;
  } else if (w.bits == 8 && w.type == "int" && w.strategy == "channel") {
    quant.weights = WeightFormat::int8_sq;
    quant.weight_scaling = WeightScaling::channel;
  } else if (w.bits == 4 && w.type == "int" && w.strategy == "group") {
    if (w.group_size < 8 || w.group_size % 8 != 0)
      throw Error("\"group_size\" is " + std::to_string(w.group_size) + ", should be a multiple of 8", where);
    quant.weights = WeightFormat::int4_awq;
    quant.weight_scaling = WeightScaling::group;
    quant.group_size = w.group_size;
    quant.zero_points = !w.symmetric;
    return;
  } else {
    not_run(std::to_string(w.bits) + "-bit " + w.type.substr(0, 20) + " weights, strategy " + w.strategy.substr(0, 20),
            where);
  }
  if (!w.symmetric) not_run("asymmetric 8-bit weights", where);
}

void parse_activations(const JsonReader& group, const std::string& where, QuantSpec& quant) {
  if (!group.has("input_activations")) return;
  const Arguments a = parse_arguments(group.get_object("input_activations"));
  const char* type = quant.weights == WeightFormat::fp8 ? "float" : "int";
  if (quant.weights == WeightFormat::int4_awq) not_run("4-bit weights with quantized activations", where);
  if (a.bits != 8 || a.type != type || !a.symmetric)
    not_run(std::to_string(a.bits) + "-bit " + a.type.substr(0, 20) + " activations, " +
                (a.symmetric ? "symmetric" : "asymmetric"),
            where);
  if (a.dynamic && a.strategy == "token")
    quant.activations = ActivationScaling::dynamic_token;
  else if (!a.dynamic && a.strategy == "tensor")
    quant.activations = ActivationScaling::static_tensor;
  else
    not_run(std::string(a.dynamic ? "dynamic" : "static") + " activations, strategy " + a.strategy.substr(0, 20),
            where);
}

void parse_kv(const JsonReader& reader, QuantSpec& quant) {
  if (!reader.has("kv_cache_scheme")) return;
  const JsonReader scheme = reader.get_object("kv_cache_scheme");
  const Arguments a = parse_arguments(scheme);
  if (a.bits != 8 || a.type != "float" || a.dynamic || !a.symmetric || a.strategy != "tensor")
    not_run("this \"kv_cache_scheme\"", scheme.where());
  quant.fixed_kv = KvFormat::fp8;
}

void check_targets(const JsonReader& group) {
  const Json& targets = group.get("targets");
  if (targets != Json::array({"Linear"})) not_run("\"targets\" other than [\"Linear\"]", group.where());
}

Json arguments(int64_t bits, const char* type, const char* strategy, bool symmetric, bool dynamic, int64_t group_size) {
  return {{"num_bits", bits},
          {"type", type},
          {"symmetric", symmetric},
          {"group_size", group_size > 0 ? Json(group_size) : Json(nullptr)},
          {"strategy", strategy},
          {"block_structure", nullptr},
          {"dynamic", dynamic},
          {"actorder", nullptr},
          {"observer", dynamic ? Json(nullptr) : Json("minmax")},
          {"observer_kwargs", Json::object()}};
}

const char* format_name(const QuantSpec& quant) {
  return quant.weights == WeightFormat::fp8       ? "float-quantized"
         : quant.weights == WeightFormat::int8_sq ? "int-quantized"
                                                  : "pack-quantized";
}

}  // namespace

QuantSpec parse_compressed_tensors_quant(const Json& config, const std::string& where) {
  const JsonReader reader(config, where);
  const std::string status = reader.get_string("quantization_status", "compressed");
  if (status != "compressed" && status != "frozen") not_run("\"quantization_status\": \"" + status + "\"", where);
  const JsonReader groups = reader.get_object("config_groups");
  const Json& list = reader.get("config_groups");
  if (list.size() != 1) not_run("a model with " + std::to_string(list.size()) + " groups of settings", groups.where());
  const JsonReader group = groups.get_object(list.begin().key());
  check_targets(group);
  if (group.has("output_activations")) not_run("\"output_activations\"", group.where());

  QuantSpec quant;
  parse_weights(parse_arguments(group.get_object("weights")), group.where(), quant);
  parse_activations(group, group.where(), quant);
  if (quant.weights != WeightFormat::int4_awq && quant.activations == ActivationScaling::none)
    if (quant.weights == WeightFormat::int8_sq) not_run("8-bit weights with 16-bit activations", group.where());
  const std::string format = reader.get_string("format", format_name(quant));
  const bool eight = quant.weights != WeightFormat::int4_awq;
  if (format != format_name(quant) && !(eight && format == "naive-quantized"))
    not_run("\"format\": \"" + format.substr(0, 50) + "\"", where);
  if (reader.has("sparsity_config") && !reader.get("sparsity_config").empty() &&
      reader.get_object("sparsity_config").get_string("format", "dense") != "dense")
    not_run("\"sparsity_config\"", where);
  // Rotations and the like, applied to activations at run time.
  if (reader.has("transform_config") && !reader.get("transform_config").empty()) not_run("\"transform_config\"", where);
  parse_kv(reader, quant);
  if (reader.has("ignore")) check_ignored_modules(reader.get("ignore"), where + ", \"ignore\"");
  quant.exclude = {"lm_head"};
  return quant;
}

Json make_compressed_tensors_quant(const QuantSpec& quant) {
  const bool fp8 = quant.weights == WeightFormat::fp8, int4 = quant.weights == WeightFormat::int4_awq;
  const char* type = fp8 ? "float" : "int";
  const char* strategy = int4 ? "group" : quant.weight_scaling == WeightScaling::tensor ? "tensor" : "channel";
  const bool dynamic = quant.activations == ActivationScaling::dynamic_token;
  Json group{
      {"targets", {"Linear"}},
      {"weights", arguments(int4 ? 4 : 8, type, strategy, !quant.zero_points, false, quant.group_size)},
      {"input_activations", int4 ? Json(nullptr) : arguments(8, type, dynamic ? "token" : "tensor", true, dynamic, 0)},
      {"output_activations", nullptr},
      {"format", format_name(quant)}};
  Json kv = nullptr;
  if (quant.fixed_kv == KvFormat::fp8) kv = arguments(8, "float", "tensor", true, false, 0);
  return {{"quant_method", "compressed-tensors"}, {"format", format_name(quant)},
          {"quantization_status", "compressed"},  {"config_groups", {{"group_0", std::move(group)}}},
          {"kv_cache_scheme", std::move(kv)},     {"ignore", {"lm_head"}},
          {"global_compression_ratio", nullptr}};
}

}  // namespace qg
