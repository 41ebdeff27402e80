# qg_embed(target NAME file): compiles a file into `target` as `const std::string_view qg::NAME`.
function(qg_embed target name file)
  set(source ${CMAKE_BINARY_DIR}/generated/embed_${name}.cc)
  add_custom_command(OUTPUT ${source}
    COMMAND ${CMAKE_COMMAND} -DNAME=${name} -DFILE=${file} -DOUT=${source} -P ${CMAKE_SOURCE_DIR}/cmake/write_embedded.cmake
    DEPENDS ${file} ${CMAKE_SOURCE_DIR}/cmake/write_embedded.cmake VERBATIM)
  target_sources(${target} PRIVATE ${source})
endfunction()

find_file(QG_CHART_JS chart.min.js PATHS /usr/share/javascript/chart.js NO_DEFAULT_PATH REQUIRED)  # libjs-chart.js
qg_embed(qg_report kChartJs ${QG_CHART_JS})
qg_embed(qg_report kReportCss ${CMAKE_SOURCE_DIR}/src/report/page.css)
qg_embed(qg_report kReportJs ${CMAKE_SOURCE_DIR}/src/report/page.js)
qg_embed(qg_report kDefaultGrid ${CMAKE_SOURCE_DIR}/grids/trt-llm-45.toml)
