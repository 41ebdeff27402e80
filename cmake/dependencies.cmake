# Packages of Debian 12 and Ubuntu 24.04; scripts/setup.sh installs them.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
if(QG_STATIC)
  set(OPENSSL_USE_STATIC_LIBS ON)
  set(CMAKE_FIND_LIBRARY_SUFFIXES .a .so)
  add_link_options(-static-libstdc++ -static-libgcc)
endif()
find_package(OpenSSL REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(Boost 1.81 REQUIRED)  # Asio and Beast: headers alone
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)

# OpenBLAS, the pthread build. Debian keeps it in a folder of its own.
find_library(QG_OPENBLAS NAMES openblas PATH_SUFFIXES openblas-pthread REQUIRED)
find_path(QG_OPENBLAS_INCLUDE cblas.h PATH_SUFFIXES openblas-pthread x86_64-linux-gnu/openblas-pthread
          x86_64-linux-gnu REQUIRED)
add_library(qg_blas INTERFACE)
target_include_directories(qg_blas SYSTEM INTERFACE ${QG_OPENBLAS_INCLUDE})
target_link_libraries(qg_blas INTERFACE ${QG_OPENBLAS})
set(QG_BLAS qg_blas)
if(QG_STATIC)
  # cblas alone needs none of the Fortran in the archive (LAPACK).
  target_link_libraries(qg_blas INTERFACE Threads::Threads m)
endif()
