#include <algorithm>

#include "grid/formats.h"
#include "report/explain.h"
#include "report/html.h"
#include "report/notes.h"
#include "report/page.h"

namespace qg {
namespace {

// Cells that are drawn in one figure: a model's on cards, or a model's on the CPU, never both.
struct Figure {
  std::string model;
  bool on_cpu = false;
  std::vector<const Cell*> cells;
};

std::vector<Figure> figures_of(const Study& study) {
  std::vector<Figure> figures;
  for (const Group& group : study.groups) {
    auto found = std::find_if(figures.begin(), figures.end(),
                              [&](const Figure& f) { return f.model == group.model && f.on_cpu == group.on_cpu; });
    if (found == figures.end()) found = figures.insert(figures.end(), {group.model, group.on_cpu, {}});
    found->cells.insert(found->cells.end(), group.cells.begin(), group.cells.end());
  }
  return figures;
}

// decode/b1 where there is one; otherwise the first speed.
std::string charted_workload(const Figure& figure) {
  const std::vector<std::string> workloads = speed_workloads(figure.cells);
  if (workloads.empty()) return {};
  return std::find(workloads.begin(), workloads.end(), "decode/b1") != workloads.end() ? "decode/b1" : workloads[0];
}

Json bar(const Study& study, const Figure& figure, const Cell& cell, const Record& speed, const Speaker& say) {
  std::string label = format_label(cell.about);
  if (!figure.on_cpu) label = study.short_card_label(cell.about.gpu) + " · " + label;
  if (cell.engine != "native") label += " · " + cell.engine;
  if (const std::string method = shown_method(figure.cells, cell, speed.workload, say); !method.empty())
    label += " · " + method;
  if (const std::string marks = marks_of(cell, speed) + (cell.accuracy_from ? "§" : ""); !marks.empty())
    label += " " + marks;
  Json out{{"label", label},
           {"weights", to_string(cell.about.weights)},
           {"kv", to_string(cell.about.kv)},
           {"value", *speed.value}};
  if (speed.ci_lo && speed.ci_hi) out["interval"] = Json::array({*speed.ci_lo, *speed.ci_hi});
  const Record* kld = cell.accuracy("kld_mean");
  if (kld && !speed.synthetic && !cell.is_of_other_checkpoint(speed)) out["kld"] = *kld->value;
  if (cell.about.is_fp16_baseline() && !speed.synthetic) out["kld"] = 0;
  return out;
}

Json figure_data(const Study& study, const Figure& figure, const Speaker& say) {
  const std::string workload = charted_workload(figure);
  Json bars = Json::array();
  for (const Cell* cell : figure.cells)
    if (const Record* speed = shown_speed(*cell, workload)) bars.push_back(bar(study, figure, *cell, *speed, say));
  const std::string model = study.model_label(figure.model) + (figure.on_cpu ? ", " + say("charts.cpu") : "");
  const std::string title = workload == "decode/b1" ? say("charts.speed", model, workload)
                                                    : say("charts.speed_other", model, say("grid.tok_s"), workload);
  return Json{{"title", title},
              {"tradeoff", say("charts.tradeoff", model)},
              {"axis", say(workload.starts_with("prefill/") ? "charts.prefill_axis" : "charts.speed_axis")},
              {"bars", bars}};
}

std::string figure_html(const Json& data, size_t index, const Speaker& say) {
  const std::string title = data["title"].get<std::string>();
  const size_t bars = data["bars"].size();
  const auto points =
      std::count_if(data["bars"].begin(), data["bars"].end(), [](const Json& b) { return b.contains("kld"); });
  const auto canvas = [&](const char* kind, const std::string& caption, size_t height) {
    return "<figure><figcaption>" + escaped(caption) +
           "</figcaption><div class=\"chart\" style=\"height:" + std::to_string(height) +
           "px\"><canvas role=\"img\" aria-label=\"" + escaped(say("charts.aria", caption)) + "\" data-kind=\"" + kind +
           "\" data-figure=\"" + std::to_string(index) + "\"></canvas></div></figure>";
  };
  if (points < 2) return canvas("bars", title, 70 + 30 * bars);
  const size_t height = std::max<size_t>(300, 70 + 30 * bars);  // the two stand side by side
  std::string html = canvas("bars", title, height) + canvas("points", data["tradeoff"].get<std::string>(), height);
  return html;
}

}  // namespace

Json chart_data(const Study& study, const PageOptions& options) {
  const Speaker say(options.language);
  Json figures = Json::array();
  for (const Figure& figure : figures_of(study)) {
    Json data = figure_data(study, figure, say);
    if (!data["bars"].empty()) figures.push_back(std::move(data));
  }
  return Json{{"figures", figures},
              {"gate", study.gates.max_kld_nats},
              {"gate_label", say("charts.gate", fmt::format("{:g}", study.gates.max_kld_nats))},
              {"kld_axis", say("charts.kld_axis")}};
}

std::string charts_section(const Study& study, const PageOptions& options) {
  const Speaker say(options.language);
  const Json data = chart_data(study, options);
  std::string html;
  size_t index = 0;
  for (const Json& figure : data["figures"]) html += figure_html(figure, index++, say);
  if (html.empty()) html = element("p", "muted", say("charts.none"));
  return "<section id=\"charts\">" + element("h2", "", say("charts.title")) + "<noscript>" +
         element("p", "note", say("charts.noscript")) + "</noscript>" + wrapped("div", "figures", html) + "</section>";
}

}  // namespace qg
