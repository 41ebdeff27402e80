#pragma once
// QG_MULTIVERSION on a function compiles it for the baseline x86-64, for AVX2 and for AVX-512, and picks at load time,
// so that one binary runs everywhere and is fast where it can be. Off under sanitizers (their runtimes start after the
// resolvers run), on other compilers and on other processors.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__) && !defined(QG_NO_MULTIVERSION)
#define QG_HAS_MULTIVERSION 1
#define QG_MULTIVERSION __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define QG_MULTIVERSION
#endif
