#pragma once
// Sanitizers make code slower; tests that allow a time multiply it by this. g++ and clang tell differently.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QG_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define QG_SANITIZED 1
#endif
#endif

namespace qg {
#if defined(QG_SANITIZED)
inline constexpr int kSlowdown = 20;
#else
inline constexpr int kSlowdown = 1;
#endif
}  // namespace qg
