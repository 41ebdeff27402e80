// Names of models in the local Hugging Face cache: models--org--name/refs/<revision> holds the name of a folder under
// models--org--name/snapshots.
#include <algorithm>
#include <cstdlib>
#include <regex>

#include "core/error.h"
#include "core/file.h"
#include "model/open_model.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

// Where huggingface_hub keeps models; the first variable that is set wins.
fs::path cache_folder() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return fs::path(value ? value : "");
  };
  if (const fs::path p = variable("HF_HUB_CACHE"); !p.empty()) return p;
  if (const fs::path p = variable("HF_HOME"); !p.empty()) return p / "hub";
  if (const fs::path p = variable("XDG_CACHE_HOME"); !p.empty()) return p / "huggingface" / "hub";
  return variable("HOME") / ".cache" / "huggingface" / "hub";
}

std::string trimmed(std::string text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  return text;
}

fs::path snapshot(const fs::path& model, const std::string& name, const std::string& revision) {
  constexpr int64_t kMaxRefBytes = 4096;
  const fs::path snapshots = model / "snapshots";
  if (fs::is_regular_file(model / "refs" / revision)) {
    const std::string commit = trimmed(read_file(model / "refs" / revision, kMaxRefBytes));
    const bool plain = !commit.empty() && commit.find_first_of("/.") == std::string::npos;
    if (plain && fs::is_directory(snapshots / commit)) return snapshots / commit;
  }
  if (fs::is_directory(snapshots / revision)) return snapshots / revision;
  throw Error("model \"" + name + "\" is in the Hugging Face cache, but its revision \"" + revision + "\" is not",
              model.string(), "fetch it, or give the folder itself");
}

}  // namespace

fs::path resolve_model(const std::string& folder_or_name) {
  std::error_code code;
  if (fs::exists(folder_or_name, code)) return folder_or_name;
  static const std::regex kName(R"(([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w.-]*))?)");
  std::smatch match;
  if (!std::regex_match(folder_or_name, match, kName))
    throw Error("there is no such folder", folder_or_name,
                "give the folder of a model, or \"org/name\" of one in the Hugging Face cache");
  const fs::path model = cache_folder() / ("models--" + match[1].str() + "--" + match[2].str());
  if (!fs::is_directory(model, code))
    throw Error("there is neither a folder nor a cached Hugging Face model of this name", folder_or_name,
                "looked for " + model.string() + "; fetch the model first, or give its folder");
  return snapshot(model, folder_or_name, match[3].matched ? match[3].str() : "main");
}

}  // namespace qg
