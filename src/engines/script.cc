#include "engines/script.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "engines/script_prologue.h"
#include "grid/commands.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPlainCharacters =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=,@%+";
constexpr const char* kEndOfFile = "END_OF_FILE";

std::string word(const std::string& text) {
  const bool plain = !text.empty() && text.find_first_not_of(kPlainCharacters) == std::string::npos;
  return plain ? text : shell_quoted(text);
}

// Line breaks in a title or a reason must not end a comment.
std::string comment(std::string text, const std::string& indent = "") {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return indent + "# " + text + "\n";
}

// Notes of commands; each stands once in a script, where it is first needed.
class Notes {
 public:
  std::string text(const std::vector<std::string>& notes) {
    std::string text;
    for (const std::string& note : notes)
      if (seen_.insert(note).second) text += comment(note, "  ");
    return text;
  }

 private:
  std::set<std::string> seen_;
};

// How the folder comes about when it is not there. FP16 weights in another layout are made by `quantize` too.
std::string checkpoint_lines(const PlanRow& row, const EngineCase& e) {
  const std::string i = "  ";
  if (row.origin == CheckpointOrigin::original) return i + "need " + word(e.checkpoint.string()) + " || return 1\n";
  const EngineSpec& engine = engine_spec(e.engine);
  std::string text = comment(
      fmt::format("A folder in the {} layout, made by any tool; what it says of its cache is checked.", engine.layout),
      i);
  if (engine.layout == "modelopt")
    text +=
        comment("Model Optimizer's hf_ptq.py makes it with --kv_cache_qformat none; its default is an FP8 cache.", i);
  const std::string check =
      i + fmt::format("check_folder {} {} || return 1\n", word(e.checkpoint.string()), to_string(row.c.kv));
  if (!e.make_checkpoint) {
    text += comment("The grid names no calibration text, so it must be there already.", i);
    return text + i + "need " + word(e.checkpoint.string()) + " || return 1\n" + check;
  }
  return text + i + "make_folder " + word(e.checkpoint.string()) + " \\\n" +
         shell_command(e.make_checkpoint->argv, "    ") + " || return 1\n" + check;
}

std::string build_lines(const EngineCase& e, Notes& notes) {
  const auto build = build_command(e);
  if (!build) return {};
  return notes.text(build->notes) + "  build_engine " + word(e.engine_folder().string()) + " \\\n" +
         shell_command(build->argv, "    ") + " || return 1\n";
}

std::string file_lines(const WrittenFile& file, Notes& notes) {
  return notes.text(file.notes) + "  mkdir -p " + word(file.path.parent_path().string()) + " || return 1\n  cat > " +
         word(file.path.string()) + " <<'" + kEndOfFile + "' || return 1\n" + file.text + kEndOfFile + "\n";
}

std::string measurement_lines(const EngineCase& e, const Measurement& m, Notes& notes) {
  std::string text = "\n" + comment("--- " + m.workload, "  ");
  for (const WrittenFile& file : m.files) text += file_lines(file, notes);
  if (m.tokens)
    text += notes.text(m.tokens->notes) + "  make_file " + word(m.tokens_file.string()) + " \\\n" +
            shell_command(m.tokens->argv, "    ") + " || return 1\n";
  for (const BenchRun& run : m.runs)
    text += notes.text(run.command.notes) +
            fmt::format("  measure {} {} \\\n", word((m.folder / run.name).string()), to_string(e.c.kv)) +
            shell_command(run.command.argv, "    ") + " || bad=1\n";
  return text;
}

// What the engine's own benchmark cannot measure: `run` starts the engine's server, as these scripts would, and loads
// it. It keeps what it did in a journal of its own and does nothing twice.
std::string served_lines(const Grid& grid, const EngineCase& e, const PlanOptions& options, const fs::path& dir) {
  std::string points;
  for (const Workload& w : e.workloads)
    if (!has_benchmark(w)) points += (points.empty() ? "" : ",") + w.name;
  if (points.empty()) return {};
  const EngineSpec& engine = engine_spec(e.engine);
  std::vector<std::string> argv{"quantgrid", "run", grid.file.string(), "--engine", std::string(engine.name)};
  if (!engine.backend.empty()) argv.insert(argv.end(), {"--backend", std::string(engine.backend)});
  argv.insert(argv.end(), {"--served", "--filter", fmt::format("number={}", e.c.number), "--points", points,
                           "--profile", std::string(to_string(options.profile)), "--engine-dir", dir.string(),
                           "--journal", (dir / "results" / "served.jsonl").string()});
  return "\n" + comment("--- " + points, "  ") +
         comment("No requests at a rate in the engine's own benchmark: its server is loaded, into served.jsonl.",
                 "  ") +
         shell_command(argv, "  ") + " \\\n    --gpu \"$CUDA_VISIBLE_DEVICES\" || bad=1\n";
}

std::string case_title(const PlanRow& row) {
  return row.c.number > 0 ? fmt::format("Case {}: {} ({})", row.c.number, row.c.id(), to_string(row.c.section))
                          : fmt::format("{} ({})", row.c.id(), to_string(row.c.section));
}

std::string function_name(const PlanRow& row) {
  return fmt::format("case_{}_{}_kv_{}", row.c.number, to_string(row.c.weights), to_string(row.c.kv));
}

std::string case_lines(const Grid& grid, const PlanRow& row, const PlanOptions& options, const fs::path& dir,
                       Notes& notes) {
  std::string text = "\n" + comment(case_title(row));
  text += comment(fmt::format("{}: {}", to_string(row.support.status), row.support.reason));
  text += comment("(" + row.support.source + ")");
  if (row.support.status == SupportStatus::unsupported) return text;
  if (row.kv_bytes_per_token)
    text +=
        comment(fmt::format("CHECK: a token of {} cache takes {} bytes; memory of the cache over its tokens, both in "
                            "the log, must say the same.",
                            to_string(row.c.kv), *row.kv_bytes_per_token));
  const EngineCase e = engine_case(grid, row, options, dir);
  text += function_name(row) + "() {\n  local bad=0\n" + checkpoint_lines(row, e) + build_lines(e, notes);
  for (const Workload& w : e.workloads)
    if (has_benchmark(w)) text += measurement_lines(e, measurement(e, w), notes);
  text += served_lines(grid, e, options, dir);
  return text + "  return $bad\n}\n" + fmt::format("run_case {} {}\n", word(row.c.id()), function_name(row));
}

std::string script_text(const Grid& grid, const std::vector<const PlanRow*>& rows, const PlanOptions& options,
                        const fs::path& dir) {
  const EngineSpec& engine = engine_spec(options.engine);
  const auto runnable = std::count_if(
      rows.begin(), rows.end(), [](const PlanRow* row) { return row->support.status != SupportStatus::unsupported; });
  Notes notes;
  std::string text = "#!/usr/bin/env bash\n";
  text += comment(fmt::format("{} on {}, {}: {} cases, {} of them supported.", rows[0]->model_label,
                              rows[0]->card_label, engine.label, rows.size(), runnable));
  text += comment(fmt::format("KV rule: {}.", engine.note));
  text += script_prologue(options.engine, grid.card(rows[0]->c.gpu), dir / "results");
  for (const PlanRow* row : rows) text += case_lines(grid, *row, options, dir, notes);
  return text + script_epilogue();
}

}  // namespace

std::string shell_command(const std::vector<std::string>& argv, const std::string& indent) {
  std::string text = indent;
  bool seen_option = false;
  for (size_t i = 0; i < argv.size(); ++i) {
    const bool is_value = i > 0 && argv[i - 1].starts_with("--") && !argv[i].starts_with("--");
    seen_option = seen_option || argv[i].starts_with("--");
    if (i > 0) text += is_value || !seen_option ? " " : " \\\n" + indent + "  ";
    text += word(argv[i]);
  }
  return text;
}

std::vector<EmittedFile> engine_scripts(const Grid& grid, const std::vector<PlanRow>& rows, const PlanOptions& options,
                                        const fs::path& dir) {
  const EngineSpec& engine = engine_spec(options.engine);
  if (options.engine == EngineId::native || options.engine == EngineId::openai)
    throw Error(fmt::format("{} is not driven by commands of its own", engine.label), "--emit",
                "name tensorrt-llm or vllm");
  std::vector<EmittedFile> files;
  std::vector<std::vector<const PlanRow*>> groups;
  for (const PlanRow& row : rows) {
    const auto same = [&](const auto& g) { return g[0]->c.model == row.c.model && g[0]->c.gpu == row.c.gpu; };
    const auto it = std::find_if(groups.begin(), groups.end(), same);
    if (it == groups.end())
      groups.push_back({&row});
    else
      it->push_back(&row);
  }
  for (const auto& group : groups)
    files.push_back(
        {fmt::format("{}-{}.sh", group[0]->c.model, group[0]->c.gpu), script_text(grid, group, options, dir), true});
  if (engine.name == "tensorrt-llm") files.push_back({kTokensProgram, tokens_program(), true});
  return files;
}

void write_emitted(const std::vector<EmittedFile>& files, const fs::path& dir, bool replace) {
  std::error_code code;
  if (fs::exists(dir, code) && !fs::is_directory(dir, code))
    throw Error("is a file, not a folder", dir.string(), "name a new folder");
  const auto write_into = [&](const fs::path& folder) {
    for (const EmittedFile& file : files) {
      write_file(folder / file.name, file.text);
      if (file.is_program)
        fs::permissions(folder / file.name, fs::perms::owner_exec | fs::perms::group_exec, fs::perm_options::add);
    }
  };
  if (replace && fs::is_directory(dir, code)) return write_into(dir);
  if (fs::is_directory(dir, code) && !fs::is_empty(dir, code))
    throw Error("exists already and is not empty", dir.string(),
                "name a new folder, or add --force: scripts are replaced, results stay");
  AtomicFolder folder(dir);
  for (const auto& left : fs::directory_iterator(folder.path())) fs::remove_all(left.path(), code);  // of a stopped run
  write_into(folder.path());
  folder.commit();
}

}  // namespace qg
