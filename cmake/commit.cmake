# Writes the version source only when its text changes, so that an unchanged tree rebuilds nothing.
execute_process(COMMAND git -C ${SOURCE_DIR} rev-parse --short=12 HEAD OUTPUT_VARIABLE QG_COMMIT
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(QG_COMMIT "unknown")
else()
  execute_process(COMMAND git -C ${SOURCE_DIR} status --porcelain --untracked-files=no OUTPUT_VARIABLE changes ERROR_QUIET)
  if(changes)
    string(APPEND QG_COMMIT "+dirty")
  endif()
endif()
execute_process(COMMAND ${SOURCE_DIR}/scripts/gpu_hash.sh OUTPUT_VARIABLE QG_KERNELS_HASH OUTPUT_STRIP_TRAILING_WHITESPACE
                ERROR_QUIET)
configure_file(${SOURCE_DIR}/src/core/version.cc.in ${OUT} @ONLY)
