#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/regex.h"

#include <pcre2.h>

#include "core/error.h"
#include "tokenizer/utf8.h"

namespace qg {
namespace {

constexpr size_t kMaxPatternBytes = 1 << 16;
// Steps of backtracking in one match: above what a run of 10 MB of spaces needs, below a second or so.
constexpr uint32_t kMaxBacktracking = 50'000'000;
constexpr size_t kJitStackBytes = 8 << 20;

std::shared_ptr<const void> compile(const std::string& pattern, const std::string& where) {
  int error = 0;
  size_t offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR reason[256] = {};
    pcre2_get_error_message(error, reason, sizeof reason);
    throw Error("regular expression cannot be read: " + std::string(reinterpret_cast<const char*>(reason)) + " (" +
                    pattern + ")",
                where);
  }
  // Where the kernel forbids writable code pages, PCRE2 runs the same pattern in its interpreter: slower, same matches.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return {code, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); }};
}

// What a thread needs to match: kept, because allocating it for each of many short texts costs more than the match.
struct MatchSpace {
  MatchSpace() {
    pcre2_set_match_limit(context, kMaxBacktracking);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~MatchSpace() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  MatchSpace(const MatchSpace&) = delete;
  MatchSpace& operator=(const MatchSpace&) = delete;

  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);  // only the whole match is asked for
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr);
};

MatchSpace& match_space() {
  thread_local MatchSpace space;
  return space;
}

}  // namespace

Regex::Regex(std::string_view pattern, const std::string& where) : where_(where) {
  if (pattern.size() > kMaxPatternBytes)
    throw Error("regular expression of " + std::to_string(pattern.size()) + " bytes, at most " +
                    std::to_string(kMaxPatternBytes) + " are taken",
                where);
  code_ = compile(translate_regex(pattern, where), where);
}

void Regex::each_match(std::string_view text, const std::function<void(size_t, size_t)>& on_match) const {
  MatchSpace& space = match_space();
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t from = 0;
  size_t last_end = std::string_view::npos;
  while (from <= text.size()) {
    // The text is known to be UTF-8; checking it again at each match would make the whole quadratic.
    const int found = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, space.data, space.context);
    if (found == PCRE2_ERROR_NOMATCH) return;
    if (found < 0)
      throw Error("regular expression backtracks too much (PCRE2 error " + std::to_string(found) + ") on a text of " +
                      std::to_string(text.size()) + " bytes",
                  where_);
    const size_t* ends = pcre2_get_ovector_pointer(space.data);
    const size_t begin = ends[0], end = ends[1];
    if (begin == end && end == last_end) {
      from += from < text.size() ? code_point_at(text, from).bytes : 1;
      continue;
    }
    on_match(begin, end);
    from = last_end = end;
  }
}

bool is_word_character(std::string_view character) {
  // Unlike Oniguruma's \w, that of added tokens takes the two join controls and no superscripts and fractions.
  const char32_t value = code_point_at(character, 0).value;
  if (value == 0x200C || value == 0x200D) return true;
  if (value == 0xB2 || value == 0xB3 || value == 0xB9 || (value >= 0xBC && value <= 0xBE)) return false;
  static const Regex word("\\A\\w", "word character");
  bool found = false;
  word.each_match(character, [&](size_t, size_t) { found = true; });
  return found;
}

}  // namespace qg
