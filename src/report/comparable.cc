#include "report/comparable.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace qg {

bool same_checkpoint(const Record& a, const Record& b) {
  return a.base_ckpt_sha == b.base_ckpt_sha && a.recipe_sha == b.recipe_sha;
}

std::optional<Method> method_of(const Record& speed) {
  const std::string& name = speed.workload;
  if (name.empty() || name[0] < '0' || name[0] > '9') return {};  // throughput is named by its lengths
  if (speed.protocol.starts_with("steady window")) return Method{true, 0};
  return Method{false, speed.num_requests.value_or(0)};
}

std::string method_text(const Method& method, const Speaker& say) {
  if (method.window) return say("method_of.window");
  if (method.requests == 0) return say("method_of.whole_run");
  // A count has no decimals: figure() gives small numbers some.
  return say("method_of.requests",
             method.requests < 1000 ? std::to_string(method.requests) : figure(static_cast<double>(method.requests)));
}

std::optional<Method> common_method(const std::vector<const Record*>& rows) {
  std::map<Method, int> count;
  for (const Record* row : rows)
    if (row)
      if (const auto method = method_of(*row)) ++count[*method];
  if (count.empty()) return {};
  const auto weight = [](const auto& entry) {
    return std::tuple(entry.second, !entry.first.window, entry.first.requests);
  };
  return std::max_element(count.begin(), count.end(),
                          [&](const auto& a, const auto& b) { return weight(a) < weight(b); })
      ->first;
}

bool methods_differ(const Method& a, const Method& b) {
  if (a.window != b.window) return true;
  return a.requests > 0 && b.requests > 0 && a.requests != b.requests;
}

bool methods_differ(const std::vector<const Record*>& rows) {
  const auto common = common_method(rows);
  return common && std::any_of(rows.begin(), rows.end(), [&](const Record* row) {
           const auto method = row ? method_of(*row) : std::nullopt;
           return method && methods_differ(*method, *common);
         });
}

}  // namespace qg
