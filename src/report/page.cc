#include "report/page.h"

#include <algorithm>

#include "core/utc.h"
#include "core/version.h"
#include "report/assets.h"
#include "report/html.h"

namespace qg {
namespace {

std::string coverage(const Study& study, const Speaker& say) {
  size_t planned = 0, with_results = 0, others = 0;
  for (const Cell& cell : study.cells) {
    planned += cell.in_grid;
    with_results += cell.in_grid && cell.has_results();
    others += !cell.in_grid;
  }
  std::string text;
  if (planned > 0 && with_results == 0 && others > 0) return say("page.only_outside", others, planned);
  if (planned > 0) text = say("page.coverage", with_results, planned);
  if (others > 0) text += (text.empty() ? "" : say("list.semicolon")) + say("page.outside", others);
  return text;
}

std::string navigation(const Speaker& say) {
  std::string links;
  for (const char* part : {"answer", "grid", "charts", "method"})
    links += "<a href=\"#" + std::string(part) + "\">" + escaped(say(std::string(part) + ".title")) + "</a>";
  return "<nav aria-label=\"" + escaped(say("page.nav")) + "\">" + links + "</nav>";
}

}  // namespace

std::string html_page(const Study& study, const PageOptions& options) {
  const Speaker say(options.language);
  const std::string made = options.made_at.empty() ? utc_now() : options.made_at;
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"" + std::string(options.language == Language::zh ? "zh-CN" : "en") +
      "\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n"
      // Nothing may be fetched: the page is one file.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src 'unsafe-inline'; img-src data:\">\n<title>" +
      escaped(say("page.title")) + "</title>\n<style>\n" + std::string(kReportCss) + "</style>\n</head>\n<body>\n";
  html += "<header class=\"top\"><p class=\"eyebrow\">" + escaped(say("page.title")) + "</p><h1>" +
          escaped(say("page.question")) + "</h1>" + element("p", "muted", coverage(study, say)) + navigation(say) +
          "</header>\n<main>\n";
  html += answer_section(study, options) + "\n" + grid_section(study, options) + "\n" + charts_section(study, options) +
          "\n" + method_section(study, options) + "\n</main>\n";
  std::string time = made.substr(0, 16);
  std::replace(time.begin(), time.end(), 'T', ' ');
  html += "<footer class=\"muted small\">" +
          element("p", "", say("page.made", time, version() + " (" + build_commit() + ")")) +
          element("p", "", say("page.footer")) + "</footer>\n";
  html += "<script type=\"application/json\" id=\"chart-data\">" + json_for_script(chart_data(study, options)) +
          "</script>\n";
  html += "<script>" + std::string(kChartJs) + "</script>\n<script>\n" + std::string(kReportJs) +
          "</script>\n</body>\n</html>\n";
  return html;
}

}  // namespace qg
