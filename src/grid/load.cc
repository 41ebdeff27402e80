// Grid files: TOML to Grid. docs/grid.md describes the keys for people.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "grid/grid.h"
#include "grid/load_workload.h"
#include "grid/models.h"
#include "grid/names.h"
#include "grid/toml_reader.h"

namespace qg {
namespace {

constexpr size_t kMaxCases = 10000;
constexpr int64_t kMaxNumber = 999'999;

template <class Enum, size_t N>
std::vector<std::string> names_of(const std::array<Enum, N>& values) {
  std::vector<std::string> names;
  for (Enum value : values) names.emplace_back(to_string(value));
  return names;
}

std::filesystem::path resolved(const std::filesystem::path& file, const std::string& path) {
  if (path.empty()) return {};
  const std::filesystem::path p(path);
  return (p.is_absolute() ? p : file.parent_path() / p).lexically_normal();
}

class Loader {
 public:
  Loader(const toml::table& root, const std::filesystem::path& file, const ShapeReader& read_shape)
      : root_(root, file.string(), ""), read_shape_(read_shape) {
    grid_.file = file;
  }

  Grid load(const std::filesystem::path& models_dir) {
    root_.only({"title", "description", "models_dir", "cases", "product", "models", "cards", "workloads", "accuracy",
                "calibration", "gates"});
    grid_.title = root_.get_string("title", grid_.file.stem().string());
    grid_.description = root_.get_string("description", "");
    grid_.models_dir = resolved(grid_.file, root_.get_string("models_dir", "models"));
    if (!models_dir.empty()) grid_.models_dir = models_dir;
    read_cards();
    read_models();
    read_cases();
    read_products();
    if (grid_.cases.empty())
      throw Error("the grid has no cases", root_.where(), "add rows under [cases], or a [[product]]");
    std::stable_sort(grid_.cases.begin(), grid_.cases.end(),
                     [](const Case& a, const Case& b) { return a.number < b.number; });
    finish_models();
    read_workloads();
    read_accuracy();
    read_calibration();
    read_gates();
    return std::move(grid_);
  }

 private:
  // Cards of the file and cards that the program knows.
  std::vector<std::string> allowed_cards() const {
    std::vector<std::string> ids = card_ids();
    for (const Card& card : grid_.cards) ids.push_back(card.id);
    return ids;
  }

  std::vector<std::string> allowed_models() const {
    std::vector<std::string> names;
    for (const KnownModel& row : known_models()) names.push_back(row.name);
    for (const GridModel& m : grid_.models)
      if (!find_known_model(m.name)) names.push_back(m.name);
    return names;
  }

  void check_name(const TomlReader& at, std::string_view key, std::string_view name) const {
    if (!is_valid_name(name))
      throw Error(fmt::format("\"{}\" cannot be part of a file name", name.substr(0, 80)), at.where(key),
                  "use at most 64 lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit");
  }

  void read_cards() {
    const auto table = root_.get_table("cards");
    if (!table) return;
    for (const std::string& id : table->keys()) {
      check_name(*table, id, id);
      if (find_card(id))
        throw Error(fmt::format("the card \"{}\" is one that the program knows already", id), table->where(id),
                    "give the card of this file another name");
      grid_.cards.push_back(read_card(*table->get_table(id), id));
    }
  }

  static Card read_card(const TomlReader& row, const std::string& id) {
    row.only({"label", "product_names", "compute_capability", "memory_gb", "bandwidth_gbps", "fp16_tflops",
              "fp8_tflops", "int8_tops", "sms", "shared_kib_per_sm", "bandwidth_efficiency", "fp16_efficiency",
              "eight_bit_efficiency"});
    Card card;
    card.id = id;
    card.label = row.get_string("label", id);
    card.product_names = row.get_strings("product_names", false);
    const int64_t tenths = std::llround(10 * row.get_double("compute_capability", {}, 1, 99));
    card.cc_major = static_cast<int>(tenths / 10);
    card.cc_minor = static_cast<int>(tenths % 10);
    card.memory_bytes = std::llround(1e9 * row.get_double("memory_gb", {}, 0.5, 1e5));
    card.bandwidth_gbps = row.get_double("bandwidth_gbps", {}, 1, 1e6);
    card.fp16_tflops = row.get_double("fp16_tflops", {}, 0.1, 1e6);
    card.fp8_tflops = row.get_double("fp8_tflops", 0, 0, 1e6);
    if (card.has_fp8() && card.fp8_tflops <= 0)
      throw Error("a card of compute capability 8.9 or more multiplies FP8, but no fp8_tflops is given", row.where(),
                  "add fp8_tflops = ... from its data sheet (dense)");
    card.int8_tops = row.get_double("int8_tops", {}, 0.1, 1e6);
    card.sms = static_cast<int>(row.get_int("sms", {}, 1, 10000));
    card.shared_bytes_per_sm = 1024 * row.get_int("shared_kib_per_sm", 100, 16, 4096);
    card.efficiency.bandwidth = row.get_double("bandwidth_efficiency", 0.85, 0.05, 1);
    card.efficiency.fp16 = row.get_double("fp16_efficiency", 0.7, 0.05, 1);
    card.efficiency.eight_bit = row.get_double("eight_bit_efficiency", 0.6, 0.05, 1);
    return card;
  }

  void read_models() {
    const auto table = root_.get_table("models");
    if (!table) return;
    for (const std::string& name : table->keys()) {
      check_name(*table, name, name);
      const TomlReader row = *table->get_table(name);
      for (const std::string& key : row.keys())
        if (row.is_table(key))
          throw Error(fmt::format("\"{}\" is read as a table in the model \"{}\"", key, name), row.where(key),
                      fmt::format("a name with a dot stands in quotes: [models.\"{}.{}\"]", name, key));
      row.only({"folder", "stem", "label"});
      const KnownModel* known = find_known_model(name);
      GridModel m;
      m.name = name;
      m.stem = row.get_string("stem", known ? known->stem : name);
      check_name(row, "stem", m.stem);
      m.label = row.get_string("label", known ? known->label : name);
      m.has_own_folder = row.has("folder");
      m.folder = m.has_own_folder ? resolved(grid_.file, row.get_string("folder")) : grid_.models_dir / m.stem;
      grid_.models.push_back(std::move(m));
    }
  }

  // Keeps the models that cases name, in the order of the cases, and gives each its shape.
  void finish_models() {
    std::vector<GridModel> used;
    for (const std::string& name : grid_.model_names()) {
      const auto row =
          std::find_if(grid_.models.begin(), grid_.models.end(), [&](const GridModel& m) { return m.name == name; });
      const KnownModel* known = find_known_model(name);
      GridModel m = row != grid_.models.end()
                        ? *row
                        : GridModel{name, known->label, known->stem, grid_.models_dir / known->stem, {}};
      if (known)
        m.shape = known->shape;
      else if (read_shape_ && std::filesystem::exists(m.folder))
        m.shape = read_shape_(m.folder);
      used.push_back(std::move(m));
    }
    grid_.models = std::move(used);
  }

  template <class Enum>
  Enum word(const TomlReader& at, const toml::node& node, std::string_view key, std::string_view text,
            std::optional<Enum> parsed, const std::vector<std::string>& allowed) const {
    if (!parsed) at.not_one_of(node, key, text, allowed);
    return *parsed;
  }

  void check_member(const TomlReader& at, const toml::node& node, std::string_view key, const std::string& value,
                    const std::vector<std::string>& allowed) const {
    if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) at.not_one_of(node, key, value, allowed);
  }

  void add_case(const TomlReader& at, const toml::node& node, std::string_view key, Case c) {
    if (grid_.cases.size() >= kMaxCases)
      throw Error(fmt::format("the grid has more than {} cases", kMaxCases), at.where(node, key), "split it");
    if (!numbers_.insert(c.number).second)
      throw Error(fmt::format("two cases have the number {}", c.number), at.where(node, key),
                  "give each case a number of its own");
    if (!ids_.insert(c.id()).second)
      throw Error(fmt::format("the case {} stands in the grid twice", c.id()), at.where(node, key), "take one out");
    grid_.cases.push_back(std::move(c));
  }

  // [cases] must = [[1, "llama-3.2-3b", "a100", "int4_awq", "fp16"], ...]
  void read_cases() {
    const auto table = root_.get_table("cases");
    if (!table) return;
    table->only({"must", "baseline", "int8"});
    for (const std::string& key : table->keys()) {
      size_t index = 0;
      for (const toml::node& row : *table->get_array(key))
        read_case_row(*table, row, fmt::format("{}[{}]", key, ++index), *parse_section(key));
    }
  }

  void read_case_row(const TomlReader& at, const toml::node& node, const std::string& key, Section section) {
    const toml::array* row = node.as_array();
    if (!row || row->size() != 5 || !row->get(0)->is_integer() ||
        !std::all_of(row->begin() + 1, row->end(), [](const toml::node& n) { return n.is_string(); }))
      throw Error("a case is a list of a number and four strings", at.where(node, key),
                  R"(write [1, "llama-3.2-3b", "a100", "int4_awq", "fp16"]: number, model, gpu, weights, kv)");
    const auto text = [&](size_t i) { return row->get(i)->as_string()->get(); };
    Case c;
    c.section = section;
    c.number = checked_number(at, *row->get(0), key, row->get(0)->as_integer()->get());
    c.model = text(1);
    check_member(at, *row->get(1), key, c.model, allowed_models());
    c.gpu = text(2);
    check_member(at, *row->get(2), key, c.gpu, allowed_cards());
    c.weights = word(at, *row->get(3), key, text(3), parse_weight_format(text(3)), names_of(kWeightFormats));
    c.kv = word(at, *row->get(4), key, text(4), parse_kv_format(text(4)), names_of(kKvFormats));
    add_case(at, node, key, std::move(c));
  }

  static int checked_number(const TomlReader& at, const toml::node& node, std::string_view key, int64_t number) {
    if (number < 1 || number > kMaxNumber)
      throw Error(fmt::format("{} cannot be the number of a case", number), at.where(node, key),
                  fmt::format("use a number from 1 to {}", kMaxNumber));
    return static_cast<int>(number);
  }

  template <class Enum, class Parse>
  std::vector<Enum> words(const TomlReader& row, std::string_view key, Parse parse,
                          const std::vector<std::string>& allowed) const {
    std::vector<Enum> values;
    for (const std::string& text : row.get_strings(key)) {
      const auto value = parse(text);
      if (!value) row.not_one_of(key, text, allowed);
      values.push_back(*value);
    }
    return values;
  }

  // [[product]]: every combination, numbered on from first_number: models outermost, then gpus, weights, kv.
  void read_products() {
    for (const TomlReader& row : root_.get_tables("product")) {
      row.only({"section", "first_number", "models", "gpus", "weights", "kv"});
      const std::string section = row.get_string("section", "must");
      const auto parsed = parse_section(section);
      if (!parsed || *parsed == Section::implied) row.not_one_of("section", section, {"must", "baseline", "int8"});
      const int64_t next = numbers_.empty() ? 1 : *numbers_.rbegin() + 1;
      const std::vector<std::string> models = row.get_strings("models"), gpus = row.get_strings("gpus");
      for (const std::string& m : models)
        if (const auto allowed = allowed_models(); std::find(allowed.begin(), allowed.end(), m) == allowed.end())
          row.not_one_of("models", m, allowed);
      for (const std::string& g : gpus)
        if (const auto allowed = allowed_cards(); std::find(allowed.begin(), allowed.end(), g) == allowed.end())
          row.not_one_of("gpus", g, allowed);
      const auto weights = words<WeightFormat>(row, "weights", parse_weight_format, names_of(kWeightFormats));
      const auto kvs = words<KvFormat>(row, "kv", parse_kv_format, names_of(kKvFormats));
      int64_t number = row.get_int("first_number", next, 1, kMaxNumber);
      const toml::array& node = *row.get_array("models");  // for the line in errors
      for (const std::string& m : models)
        for (const std::string& g : gpus)
          for (WeightFormat w : weights)
            for (KvFormat kv : kvs)
              add_case(row, node, "", Case{checked_number(row, node, "", number++), *parsed, m, g, w, kv});
    }
  }

  void read_workloads() {
    std::set<std::string> names;
    for (const TomlReader& row : root_.get_tables("workloads")) {
      Workload w = read_workload(row);
      if (!names.insert(w.name).second)
        throw Error(fmt::format("two workloads are called \"{}\"", w.name), row.where("name"), "rename one");
      grid_.workloads.push_back(std::move(w));
    }
  }

  void read_accuracy() {
    const auto row = root_.get_table("accuracy");
    if (!row) return;
    row->only({"text", "windows", "window_tokens"});
    grid_.accuracy.text = resolved(grid_.file, row->get_string("text"));
    grid_.accuracy.windows = row->get_int("windows", grid_.accuracy.windows, 1, 1'000'000);
    grid_.accuracy.window_tokens = row->get_int("window_tokens", grid_.accuracy.window_tokens, 2, kMaxTokens);
  }

  void read_calibration() {
    const auto row = root_.get_table("calibration");
    if (!row) return;
    row->only({"text", "samples", "sample_tokens", "search_tokens", "seed"});
    CalibrationSettings& c = grid_.calibration;
    c.text = resolved(grid_.file, row->get_string("text"));
    c.samples = row->get_int("samples", c.samples, 1, 1'000'000);
    c.sample_tokens = row->get_int("sample_tokens", c.sample_tokens, 1, kMaxTokens);
    c.search_tokens = row->get_int("search_tokens", c.search_tokens, 1, kMaxTokens);
    c.seed = static_cast<uint64_t>(row->get_int("seed", 1, 0, std::numeric_limits<int64_t>::max()));
  }

  void read_gates() {
    const auto row = root_.get_table("gates");
    if (!row) return;
    row->only({"max_ppl_ratio", "max_kld_nats", "tie_share", "context_tokens"});
    Gates& g = grid_.gates;
    g.max_ppl_ratio = row->get_double("max_ppl_ratio", g.max_ppl_ratio, 1, 1000);
    g.max_kld_nats = row->get_double("max_kld_nats", g.max_kld_nats, 0, 1000);
    g.tie_share = row->get_double("tie_share", g.tie_share, 0, 1);
    g.context_tokens = row->get_int("context_tokens", g.context_tokens, 1, kMaxTokens);
  }

  TomlReader root_;
  const ShapeReader& read_shape_;
  Grid grid_;
  std::set<int> numbers_;
  std::set<std::string> ids_;
};

}  // namespace

Grid parse_grid(std::string_view toml, const std::filesystem::path& file, const ShapeReader& read_shape,
                const std::filesystem::path& models_dir) {
  const toml::table root = parse_toml(toml, file.string());
  return Loader(root, file, read_shape).load(models_dir);
}

Grid load_grid(const std::filesystem::path& file, const ShapeReader& read_shape,
               const std::filesystem::path& models_dir) {
  return parse_grid(read_file(file, kMaxTomlBytes), file, read_shape, models_dir);
}

}  // namespace qg
