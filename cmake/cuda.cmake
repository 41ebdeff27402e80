# The CUDA part of the build: compiler, architectures, libraries. cuBLASLt is opened at run time (kernels/common), so that
# a machine without it gets a message instead of a loader error. nvcc cannot compile fmt 9, so a .cu file includes neither
# it nor what includes it; host code that needs both lies in cuda*.cc, which g++ compiles.
set(QG_CUDA_ARCHITECTURES "90a-real" CACHE STRING "sm of the machine code: 80-real;86-real;89-real;90a-real for all cards")
set(CMAKE_CUDA_ARCHITECTURES ${QG_CUDA_ARCHITECTURES})
set(CMAKE_CUDA_STANDARD 17)  # for the compiler test alone: CMake 3.25 does not know nvcc 13's dialects
if(CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
find_package(CUDAToolkit 13.0 REQUIRED)
set(QG_CUDA_LIBRARIES CUDA::cudart_static)
add_compile_definitions(QG_WITH_CUDA)
# Warnings of the host compiler hold for .cu files too, but those that nvcc's own generated code sets off do not.
add_compile_options($<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>
                    $<$<COMPILE_LANGUAGE:CUDA>:-Wno-shadow> $<$<COMPILE_LANGUAGE:CUDA>:-Wno-unused-parameter>)

# GCC notes that arguments aligned to 64 bytes (tensor maps) were passed in another way before its version 4.6.
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/kernels/linear/cuda_bulk.cc
                            ${CMAKE_SOURCE_DIR}/src/kernels/linear/cuda_wide.cc PROPERTIES COMPILE_OPTIONS -Wno-psabi)

# FlashInfer's FA3 templates for prefill on Hopper: headers out of the pinned wheel, which scripts/setup.sh unpacks. Without
# them the portable kernels serve Hopper too, and say so.
set(QG_FLASHINFER_HEADERS ${CMAKE_SOURCE_DIR}/third_party/extracted/flashinfer)
if(EXISTS ${QG_FLASHINFER_HEADERS}/include/flashinfer)
  set(QG_FLASHINFER_OPTIONS -DQG_FLASHINFER -DCUTE_USE_PACKED_TUPLE=1 --expt-extended-lambda -w -Xcompiler=-w)
  foreach(folder cccl/libcudacxx/include include cutlass/include cutlass/tools/util/include)
    list(APPEND QG_FLASHINFER_OPTIONS -I${QG_FLASHINFER_HEADERS}/${folder})
  endforeach()
  set_source_files_properties(${CMAKE_SOURCE_DIR}/src/kernels/attention/sm90_prefill.cu PROPERTIES
                              COMPILE_OPTIONS "${QG_FLASHINFER_OPTIONS}")
else()
  message(WARNING "third_party/extracted/flashinfer is not there: no Hopper prefill kernel. Run scripts/setup.sh --data")
endif()
