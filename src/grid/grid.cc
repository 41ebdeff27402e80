#include "grid/grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"

namespace qg {
namespace {

constexpr std::array<std::string_view, 4> kKindNames{"decode", "throughput", "prefill", "rate"};
constexpr std::array<std::string_view, 2> kProfileNames{"quick", "full"};

// Requests of each (ISL, OSL) point in TensorRT-LLM's published tables ("to reach steady state"):
// TensorRT-LLM docs, developer-guide/perf-overview.md.
struct PublishedPoint {
  int64_t isl_tokens, osl_tokens, requests;
};
constexpr std::array kPublished{
    PublishedPoint{128, 128, 30000},   PublishedPoint{128, 2048, 3000},  PublishedPoint{128, 4096, 1500},
    PublishedPoint{500, 2000, 3000},   PublishedPoint{1000, 1000, 3000}, PublishedPoint{1000, 2000, 1500},
    PublishedPoint{2048, 128, 3000},   PublishedPoint{2048, 2048, 1500}, PublishedPoint{5000, 500, 1500},
    PublishedPoint{20000, 2000, 1000},
};
constexpr int64_t kOtherRequests = 1000;

void add_once(std::vector<std::string>& names, const std::string& name) {
  if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
}

}  // namespace

std::string_view to_string(WorkloadKind kind) {
  return kKindNames[static_cast<size_t>(kind)];
}
std::string_view to_string(Profile profile) {
  return kProfileNames[static_cast<size_t>(profile)];
}

std::optional<Profile> parse_profile(std::string_view name) {
  for (Profile profile : {Profile::quick, Profile::full})
    if (to_string(profile) == name) return profile;
  return std::nullopt;
}

int64_t rate_warm_up(int64_t requests) {
  return std::clamp<int64_t>(requests / 10, std::min<int64_t>(16, requests), 1000);
}

int64_t throughput_requests(const Workload& workload) {
  if (workload.requests > 0) return workload.requests;
  for (const PublishedPoint& p : kPublished)
    if (p.isl_tokens == workload.isl_tokens && p.osl_tokens == workload.osl_tokens) return p.requests;
  return kOtherRequests;
}

std::string describe(const Workload& w) {
  const int64_t requests = w.kind == WorkloadKind::throughput ? throughput_requests(w) : w.requests;
  std::string text = fmt::format("{} {} {} {} {}", w.isl_tokens, w.osl_tokens, w.batch, requests, w.rounds);
  if (w.kind == WorkloadKind::rate)
    text += fmt::format(" rate {} burstiness {} seed {} ttft {} tpot {}", w.rate_per_s, w.burstiness, w.seed,
                        w.max_ttft_ms, w.max_tpot_ms);
  return text;
}

const GridModel& Grid::model(std::string_view name) const {
  for (const GridModel& m : models)
    if (m.name == name) return m;
  throw Error(fmt::format("the grid has no model \"{}\"", name), file.string(),
              fmt::format("its models are: {}", fmt::join(model_names(), ", ")));
}

const Card& Grid::card(std::string_view id) const {
  for (const Card& c : cards)
    if (c.id == id) return c;
  if (const Card* known = find_card(id)) return *known;
  throw Error(fmt::format("there is no card \"{}\"", id), file.string(),
              fmt::format("its cards are: {}", fmt::join(gpu_ids(), ", ")));
}

const Case* Grid::find_case(int number) const {
  for (const Case& c : cases)
    if (c.number == number) return &c;
  return nullptr;
}

const Case* Grid::find_case(std::string_view id) const {
  for (const Case& c : cases)
    if (c.id() == id) return &c;
  return nullptr;
}

const ModelShape& Grid::shape(const Case& c) const {
  const GridModel& m = model(c.model);
  if (!m.shape)
    throw Error(
        fmt::format("the shape of the model \"{}\" is not known: there is no folder {}", m.name, m.folder.string()),
        file.string(), fmt::format("put the model there, or name its folder under [models.{}]", m.name));
  return *m.shape;
}

std::vector<std::string> Grid::model_names() const {
  std::vector<std::string> names;
  for (const Case& c : cases) add_once(names, c.model);
  return names;
}

std::vector<std::string> Grid::gpu_ids() const {
  std::vector<std::string> ids;
  for (const Case& c : cases) add_once(ids, c.gpu);
  return ids;
}

Case Grid::baseline_of(const Case& c) const {
  for (const Case& other : cases)
    if (other.model == c.model && other.gpu == c.gpu && other.is_fp16_baseline()) return other;
  return Case{0, Section::implied, c.model, c.gpu, WeightFormat::fp16, KvFormat::fp16};
}

std::vector<Case> Grid::implied_baselines() const {
  std::vector<Case> implied;
  for (const Case& c : cases) {
    const Case baseline = baseline_of(c);
    if (baseline.section == Section::implied && std::find(implied.begin(), implied.end(), baseline) == implied.end())
      implied.push_back(baseline);
  }
  return implied;
}

std::vector<Workload> Grid::workloads_of(Profile profile) const {
  std::vector<Workload> chosen;
  for (const Workload& w : workloads)
    if (profile == Profile::full || w.profile == Profile::quick) chosen.push_back(w);
  return chosen;
}

}  // namespace qg
