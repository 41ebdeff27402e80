#include <set>

#include "grid/names.h"
#include "report/explain.h"
#include "report/html.h"
#include "report/notes.h"
#include "report/page.h"

namespace qg {
namespace {

std::string rules(const Study& study, const Speaker& say) {
  return element("h3", "", say("method.rules")) +
         element("p", "",
                 say("method.rule_admissible", fmt::format("{:g}", study.gates.max_ppl_ratio),
                     fmt::format("{:g}", study.gates.max_kld_nats))) +
         element("p", "", say("method.rule_fastest", percent(study.gates.tie_share, 0))) +
         element("p", "", say("method.rule_synthetic"));
}

std::string speed_rules(const Study& study, const Speaker& say) {
  // The lengths that were really used; without decode rows, the plan's.
  int64_t isl = 128, osl = 256;
  for (const Cell& cell : study.cells)
    for (const auto& [key, row] : cell.rows)
      if (key.first.starts_with("decode/") && row->isl && row->osl) isl = *row->isl, osl = *row->osl;
  return element("h3", "", say("method.speed")) + element("p", "", say("method.speed_decode", isl, osl)) +
         element("p", "", say("method.speed_throughput"));
}

std::string accuracy_rules(const Study& study, const Speaker& say) {
  std::set<std::string> protocols, datasets;
  for (const Cell& cell : study.cells)
    for (const auto& [key, row] : cell.rows) {
      if (!row->protocol.empty()) protocols.insert(row->protocol);
      if (!row->dataset.empty() && row->suite == "accuracy") datasets.insert(row->dataset);
    }
  std::string html = element("h3", "", say("method.accuracy")) + element("p", "", say("method.accuracy_text"));
  for (const std::string& protocol : protocols) html += element("p", "", say("method.protocol", protocol));
  for (const std::string& dataset : datasets) html += element("p", "", say("method.dataset", dataset));
  return html;
}

std::string machine_table(const Study& study, const Speaker& say) {
  if (study.results.runs.empty()) return {};
  std::string head;
  for (const char* key : {"method.run", "method.machine", "method.driver", "method.build"})
    head += element("th", "", say(key));
  std::string rows;
  for (const Environment& run : study.results.runs) {
    std::string machine = run.gpu.empty() ? run.machine : run.gpu;
    std::string details = run.cpu;
    if (run.memory_bytes)
      details += (details.empty() ? "" : ", ") + bytes_figure(static_cast<double>(*run.memory_bytes));
    if (!run.os.empty()) details += (details.empty() ? "" : ", ") + run.os;
    std::string driver = run.driver;
    if (!run.cuda.empty()) driver += (driver.empty() ? "" : ", CUDA ") + run.cuda;
    rows += wrapped("tr", "",
                    element("td", "num", run.started_at.substr(0, 10)) +
                        wrapped("td", "", element("span", "", machine) + element("small", "ci", details)) +
                        element("td", "", driver.empty() ? "–" : driver) +
                        wrapped("td", "", element("span", "", run.commit) + element("small", "ci", run.build)));
  }
  return element("h3", "", say("method.machines")) + "<div class=\"scroll\" tabindex=\"0\"><table>" +
         wrapped("thead", "", wrapped("tr", "", head)) + wrapped("tbody", "", rows) + "</table></div>";
}

std::string failures(const Study& study, const Speaker& say) {
  std::string items;
  for (const FailureNote& note : failure_notes(study, say))
    items += wrapped("li", "", element("code", "", note.case_id) + " " + element("span", "", note.text));
  return items.empty() ? items : element("h3", "", say("method.failures")) + wrapped("ul", "small", items);
}

std::string disagreements(const Study& study, const Speaker& say) {
  std::string items;
  for (const StoredAttempt& stored : study.results.attempts) {
    const Record& subject = stored.attempt.done.subject;
    if (stored.disagrees)
      items += wrapped(
          "li", "",
          element("code", "", subject.case_id) + " " + element("span", "", subject.workload + ", " + subject.ended_at));
  }
  if (items.empty()) return items;
  return element("h3", "", say("method.disagree")) + element("p", "", say("method.disagree_text")) +
         wrapped("ul", "small", items);
}

std::string price_list(const Study& study, const PageOptions& options, const Speaker& say) {
  if (!options.prices) return {};
  std::string items;
  for (const auto& [gpu, price] : options.prices->per_hour)
    items += element("li", "num", study.card_label(gpu) + ": " + options.prices->currency + " " + figure(price));
  return element("h3", "", say("method.prices")) + wrapped("ul", "small", items);
}

}  // namespace

std::string method_section(const Study& study, const PageOptions& options) {
  const Speaker say(options.language);
  return "<section id=\"method\">" + element("h2", "", say("method.title")) + "<div class=\"prose\">" +
         rules(study, say) + speed_rules(study, say) + accuracy_rules(study, say) + "</div>" +
         price_list(study, options, say) + failures(study, say) + disagreements(study, say) +
         machine_table(study, say) + "</section>";
}

}  // namespace qg
