#pragma once
// Files that are compiled into the program (cmake/embed.cmake), so that it makes a report when copied alone.
#include <string_view>

namespace qg {

extern const std::string_view kChartJs;      // Chart.js, from Debian's libjs-chart.js
extern const std::string_view kReportCss;    // src/report/page.css
extern const std::string_view kReportJs;     // src/report/page.js
extern const std::string_view kDefaultGrid;  // grids/trt-llm-45.toml

}  // namespace qg
