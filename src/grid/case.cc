#include "grid/case.h"

#include "grid/names.h"

namespace qg {
namespace {

constexpr std::array<std::string_view, 4> kSectionNames{"must", "baseline", "int8", "implied"};

}  // namespace

std::string_view to_string(Section section) {
  return kSectionNames[static_cast<size_t>(section)];
}

std::optional<Section> parse_section(std::string_view name) {
  for (Section section : kSections)
    if (to_string(section) == name) return section;
  return std::nullopt;
}

std::string Case::id() const {
  return case_id(model, gpu, weights, kv);
}

}  // namespace qg
