#include "engines/run_card.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>

#include "core/error.h"
#include "engines/process.h"
#include "grid/cards.h"

namespace qg {
namespace {

constexpr double kAskSeconds = 60;

std::vector<std::string> fields(std::string_view line) {
  std::vector<std::string> list;
  for (size_t at = 0; at <= line.size();) {
    const size_t end = std::min(line.find(", ", at), line.size());
    list.emplace_back(line.substr(at, end - at));
    at = end + 2;
  }
  return list;
}

bool read_number(std::string_view text, int64_t& value) {
  const auto [rest, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  return code == std::errc() && rest == text.data() + text.size();
}

}  // namespace

CardHere card_here(const std::string& gpu, const std::filesystem::path& scratch) {
  if (gpu.empty() || gpu.find_first_not_of("0123456789abcdefABCDEF-GPU") != std::string::npos)
    throw Error(fmt::format("\"{}\" is not a card", gpu), "--gpu", "name one card by its index or UUID (GPU-…)");
  std::vector<std::string> lines;
  ProcessSpec ask;
  ask.argv = {"nvidia-smi", "-i", gpu, "--query-gpu=name,compute_cap,memory.total,driver_version",
              "--format=csv,noheader,nounits"};
  ask.log = scratch / "nvidia-smi.log";
  ask.limit_s = kAskSeconds;
  ask.on_line = [&](std::string_view line) {
    if (lines.size() < 100) lines.emplace_back(line);
    return std::nullopt;
  };
  const ProcessResult result = run_process(std::move(ask));
  std::error_code code;
  std::filesystem::remove(scratch / "nvidia-smi.log", code);
  const std::string said = lines.empty() ? result.problem : lines.back();
  if (!result.ended_well() || lines.empty())
    throw Error("no GPU is here" + (said.empty() ? "" : ": " + said), "nvidia-smi",
                "other engines need a card and its driver; run `quantgrid doctor`", ExitCode::cannot_here);
  CardHere card;
  const std::vector<std::string> f = fields(lines.back());
  int64_t major = 0, minor = 0, mib = 0;
  const size_t dot = f.size() == 4 ? f[1].find('.') : std::string::npos;
  if (dot == std::string::npos || !read_number(std::string_view(f[1]).substr(0, dot), major) ||
      !read_number(std::string_view(f[1]).substr(dot + 1), minor) || !read_number(f[2], mib) || mib < 0 ||
      mib > 1 << 30)
    throw Error(fmt::format("nvidia-smi said \"{}\", which names no card", said), "nvidia-smi",
                "install a driver of 2021 or newer", ExitCode::cannot_here);
  card.name = f[0];
  card.driver = f[3];
  card.cc_major = static_cast<int>(major);
  card.cc_minor = static_cast<int>(minor);
  card.memory_bytes = mib << 20;
  const CardMatch match = identify_card(card.name, card.cc_major, card.cc_minor, card.memory_bytes);
  if (!match.card)
    throw Error("this card is not in the table: " + match.reason, card.name, "add a row (docs/add-a-card.md)",
                ExitCode::cannot_here);
  card.id = match.card->id;
  return card;
}

std::string default_gpu() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  const std::string all(visible ? visible : "");
  return all.empty() ? "0" : all.substr(0, all.find(','));
}

std::vector<std::string> card_environment(const std::string& gpu) {
  return {"CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=" + gpu};
}

}  // namespace qg
