#include "quantize/quantize_run.h"

#include <algorithm>
#include <chrono>

#include "checkpoint/fold.h"
#include "checkpoint/kv_scales.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/json_text.h"
#include "core/log.h"
#include "core/utc.h"
#include "core/version.h"
#include "model/architecture.h"
#include "quantize/kv_scales.h"
#include "quantize/tiny_scales.h"

namespace qg {
namespace {

constexpr size_t kLayersWaiting = 2;

std::vector<int64_t> input_widths(const ModelTable& table) {
  std::vector<int64_t> widths;
  for (const LinearSpec& spec : table.linears)
    if (std::find(widths.begin(), widths.end(), spec.k) == widths.end()) widths.push_back(spec.k);
  return widths;
}

std::filesystem::path journal_folder(const QuantizeJob& job) {
  std::filesystem::path first = (job.outputs.empty() ? job.kv_scales : job.outputs.front().out).lexically_normal();
  if (first.filename().empty()) first = first.parent_path();
  return first.string() + ".journal";
}

Json calibration_json(const QuantizeJob& job) {
  return {{"text", job.calibration.name},
          {"sequences", job.options.sequences},
          {"tokens", job.options.tokens},
          {"search_rows", job.options.sample_rows}};
}

void append(KvScales& scales, const LayerKv& kv) {
  scales.fp8.push_back(kv.fp8);
  scales.int8.push_back(kv.int8);
  scales.shaping.push_back(kv.shaping);
}

// One text gives other tokens through another tokenizer.
std::string hash_of_tokens(const CalibrationText& text) {
  Sha256 hash;
  for (const std::vector<int32_t>& sequence : text.sequences) {
    const uint64_t length = sequence.size();
    hash.update(&length, sizeof(length));
    hash.update(sequence.data(), sequence.size() * sizeof(int32_t));
  }
  return hash.hex();
}

// Hash of all that the layers' bytes follow from but the base's weights: the numbers of its config.json are part of it.
std::string journal_key(const QuantizeJob& job, const std::string& executor) {
  const ModelShape& shape = job.base->table().shape;
  Json key{{"version", version()},
           {"commit", build_commit()},
           {"executor", executor},
           {"config", make_hf_config(shape, job.base->dtype(), hf_rules_of_family(shape.family))},
           {"calibration", calibration_json(job)},
           {"calibration_hash", job.calibration.hash},
           {"tokens", hash_of_tokens(job.calibration)},
           {"seed", static_cast<int64_t>(job.options.seed)},
           {"outputs", Json::array()}};
  for (const QuantizeOutput& output : job.outputs)
    key["outputs"].push_back({{"out", output.out.filename().string()},
                              {"recipe", output.recipe.to_json()},
                              {"layout", to_string(output.layout)}});
  return sha256_hex(json_text(key));
}

}  // namespace

// One checkpoint in the making.
class QuantizeRun::Output {
 public:
  Output(const QuantizeJob& job, const QuantizeOutput& output, const std::string& executor)
      : job_(job), output_(output), executor_(executor) {
    options_.out = output.out;
    options_.layout = output.layout;
    options_.table = job.base->table();
    options_.quant = output.recipe.spec(input_widths(job.base->table()));
    options_.quant.fixed_kv = output.fixed_kv;
    place_ = prequant_place(output.layout, options_.quant);
    if (place_ == PrequantPlace::nowhere) options_.quant.prequant_scales = false;
    const bool always_f16 = job.base->dtype() == DType::f32 || output.layout == Layout::autoawq;
    options_.dtype = always_f16 ? DType::f16 : job.base->dtype();
    options_.architecture = job.architecture;
    options_.hf_rules = hf_rules_of_family(job.base->table().shape.family);
    options_.ranks = output.ranks;
    writer_ = create_checkpoint(options_);
    report_.out = output.out;
  }

  const Recipe& recipe() const { return output_.recipe; }
  const QuantSpec& spec() const { return options_.quant; }
  bool folds_everything() const { return place_ == PrequantPlace::nowhere && scales_inputs(); }

  // kv: of the base, whose keys this model's are; its values may be scaled where the output of attention was.
  void write(int layer, const LayerResult& result, const LayerKv& kv) {
    LayerWeights weights{result.attention_norm, result.mlp_norm, result.linears};
    std::vector<float> of_values;
    if (scales_inputs()) of_values = fold_prequant(weights, options_.table, layer, place_);
    if (has_f16_scales())
      for (auto& [role, linear] : weights.linears) raise_tiny_scales(linear);
    write_kv(kv, of_values);
    for (const LinearSpec* spec : options_.table.layer_linears(layer))
      writer_->write(*spec, weights.linears.at(spec->role));
    write_norm(TensorRole::attention_norm, layer, weights.attention_norm);
    write_norm(TensorRole::mlp_norm, layer, weights.mlp_norm);
    groups_ += result.groups;
    report_.mean_relative_error += result.error_sum;
    report_.seconds += result.seconds;
    if (result.worst_error > report_.worst_relative_error) {
      report_.worst_relative_error = result.worst_error;
      report_.worst_layer = result.worst_group;
    }
  }

  void write_rest() {
    for (const TensorSpec& spec : options_.table.tensors)
      if (spec.layer < 0) writer_->write(spec, job_.base->tensor(spec));
  }

  QuantizeReport finish(const std::string& base_hash) {
    writer_->set_kv_scales(kv_);
    writer_->set_lineage(lineage(base_hash));
    writer_->copy_side_files(job_.base->folder());
    if (!job_.tokenizer.empty()) writer_->copy_side_files(job_.tokenizer);
    writer_->finish();
    if (groups_ > 0) report_.mean_relative_error /= static_cast<double>(groups_);
    return report_;
  }

 private:
  bool scales_inputs() const {
    return options_.quant.weights == WeightFormat::int4_awq || options_.quant.weights == WeightFormat::int8_sq;
  }

  // Of 4-bit groups; the other layouts store F32.
  bool has_f16_scales() const {
    return output_.layout == Layout::autoawq ||
           (output_.layout == Layout::compressed_tensors && options_.dtype == DType::f16);
  }

  void write_kv(const LayerKv& kv, const std::vector<float>& of_values) {
    if (of_values.empty()) return append(kv_, kv);
    LayerKv own = kv;
    multiply_values(own, of_values);
    append(kv_, own);
  }

  void write_norm(TensorRole role, int layer, const std::vector<float>& values) {
    const TensorSpec* spec = options_.table.find(role, layer);
    if (!spec) throw Error("the model table has no " + std::string(to_string(role)), "layer " + std::to_string(layer));
    writer_->write(*spec, tensor_from_f32(values, spec->shape));  // which refuses what overflows its type
  }

  Lineage lineage(const std::string& base_hash) const {
    Lineage l;
    l.base_model = std::filesystem::absolute(job_.base->folder()).lexically_normal().filename().string();
    l.base_hash = base_hash;
    l.recipe = output_.recipe.to_json();
    if (options_.quant.group_size > 0) l.recipe["group_size"] = options_.quant.group_size;
    l.recipe["calibration"] = calibration_json(job_);
    l.recipe["kv_keys"] = "shaped for any position";
    describe_folder(l, output_.layout, output_.ranks);
    if (executor_ != "cpu") l.recipe["executor"] = executor_;
    l.calibration_hash = job_.calibration.hash;
    l.seed = job_.options.seed;
    l.tool_version = version();
    l.tool_commit = build_commit();
    l.created = utc_now();
    return l;
  }

  const QuantizeJob& job_;
  const QuantizeOutput& output_;
  std::string executor_;
  WriterOptions options_;
  PrequantPlace place_ = PrequantPlace::anywhere;
  std::unique_ptr<CheckpointWriter> writer_;
  KvScales kv_;
  QuantizeReport report_;
  int64_t groups_ = 0;
};

QuantizeRun::QuantizeRun(const QuantizeJob& job, const std::string& executor) : job_(job), queue_(kLayersWaiting) {
  // Before the base is hashed, which takes minutes: what is wrong with an output is said at once.
  for (const QuantizeOutput& output : job.outputs) outputs_.push_back(std::make_unique<Output>(job, output, executor));
  if (!job.kv_scales.empty()) kv_scales_lock_.emplace(job.kv_scales);
  base_hash_ = std::async(std::launch::async, [&job] { return job.base->weights_hash(); }).share();
  journal_ = std::make_unique<LayerJournal>(journal_folder(job), journal_key(job, executor),
                                            [this] { return base_hash_.get(); });
}

// Also on the way out of an error: layers that are finished go into the journal.
QuantizeRun::~QuantizeRun() {
  try {
    queue_.drain();
    if (!done_) journal_->set_base(base_hash_.get());
  } catch (...) {  // the caller has its error already
  }
}

const Recipe& QuantizeRun::recipe(size_t output) const {
  return outputs_[output]->recipe();
}
const QuantSpec& QuantizeRun::spec(size_t output) const {
  return outputs_[output]->spec();
}
bool QuantizeRun::folds_everything(size_t output) const {
  return outputs_[output]->folds_everything();
}
bool QuantizeRun::quantizes() const {
  return std::any_of(outputs_.begin(), outputs_.end(),
                     [](const auto& o) { return o->recipe().weights != WeightFormat::fp16; });
}
bool QuantizeRun::wants_gram() const {
  return std::any_of(outputs_.begin(), outputs_.end(), [](const auto& o) {
    return o->recipe().weights != WeightFormat::fp16 && o->recipe().error_feedback;
  });
}

void QuantizeRun::write(int layer, const std::vector<LayerResult>& results, const LayerKv& kv) {
  append(kv_, kv);
  for (size_t i = 0; i < outputs_.size(); ++i) outputs_[i]->write(layer, results[i], kv);
}

void QuantizeRun::restore_layer(int layer) {
  const SafetensorsFile file = journal_->open(layer);
  std::vector<LayerResult> results;
  for (size_t i = 0; i < outputs_.size(); ++i)
    results.push_back(read_layer_result(file, "output" + std::to_string(i) + "."));
  queue_.push([this, layer, results = std::move(results), kv = read_layer_kv(file)] { write(layer, results, kv); });
}

void QuantizeRun::finish_layer(int layer, std::vector<LayerResult> results, LayerKv kv) {
  queue_.push([this, layer, results = std::move(results), kv = std::move(kv)] {
    NamedTensors tensors;
    for (size_t i = 0; i < results.size(); ++i) add_tensors(results[i], "output" + std::to_string(i) + ".", tensors);
    add_tensors(kv, tensors);
    journal_->append(layer, tensors);
    if (base_hash_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) journal_->set_base(base_hash_.get());
    write(layer, results, kv);
    if (const TensorSet* files = job_.base->stored()) files->release_pages();
  });
}

std::vector<QuantizeReport> QuantizeRun::finish() {
  std::vector<QuantizeReport> reports;
  queue_.push([&] {
    for (const auto& output : outputs_) output->write_rest();
    // Before the outputs: once they have their names, the same command would not go on.
    if (!job_.kv_scales.empty()) write_kv_scales_file(job_.kv_scales, kv_, job_.base->table().shape, base_hash_.get());
    for (const auto& output : outputs_) reports.push_back(output->finish(base_hash_.get()));
    journal_->remove();
    done_ = true;
  });
  queue_.drain();
  return reports;
}

}  // namespace qg
