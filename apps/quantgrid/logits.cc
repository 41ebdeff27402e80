// quantgrid logits: float32 logits of given tokens, for comparing with other implementations.
#include <fmt/format.h>

#include <algorithm>

#include "core/file.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "runtime/cpu_layer.h"
#include "session.h"
#include "verb.h"

namespace qg {
namespace {

struct LogitsFlags {
  ModelFlags model;
  std::string tokens, out;
};

using Sequence = std::vector<int32_t>;

struct Sequences {
  std::vector<Sequence> all;
  bool list_of_lists = false;
};

Sequence read_sequence(const Json& list, const std::string& where, const ModelShape& shape) {
  Sequence tokens;
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id >= shape.vocab)
      throw Error(fmt::format("{} is not a token of this model", id.dump()), where,
                  fmt::format("token numbers are integers from 0 to {}", shape.vocab - 1));
    tokens.push_back(id.get<int32_t>());
  }
  if (tokens.empty()) throw Error("a list without tokens", where, "give at least one token number");
  if (static_cast<int64_t>(tokens.size()) > shape.max_position)
    throw Error(fmt::format("{} tokens, but the model takes at most {}", tokens.size(), shape.max_position), where,
                "give a shorter list");
  return tokens;
}

Sequences read_sequences(const std::string& path, const ModelShape& shape) {
  const Json json = read_json(path);
  if (!json.is_array() || json.empty())
    throw Error("expected a JSON list of token numbers, or a list of such lists", path, "write for example [1, 2, 3]");
  Sequences sequences;
  sequences.list_of_lists = json.front().is_array();
  if (!sequences.list_of_lists) {
    sequences.all.push_back(read_sequence(json, path, shape));
    return sequences;
  }
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string where = fmt::format("{}, list {}", path, i);
    if (!json[i].is_array()) throw Error(fmt::format("{} is not a list", json[i].dump()), where);
    sequences.all.push_back(read_sequence(json[i], where, shape));
  }
  return sequences;
}

// The safetensors header of tensors logits, or logits.0, logits.1, …: F32 [tokens, vocab]. Written here, not by the
// checkpoint writer, because rows are written as they are computed.
std::string header(const Sequences& sequences, int64_t vocab) {
  Json json = {{"__metadata__", {{"format", "pt"}}}};
  int64_t offset = 0;
  for (size_t i = 0; i < sequences.all.size(); ++i) {
    const int64_t rows = static_cast<int64_t>(sequences.all[i].size());
    const int64_t end = offset + rows * vocab * static_cast<int64_t>(sizeof(float));
    json[sequences.list_of_lists ? fmt::format("logits.{}", i) : "logits"] = {
        {"dtype", "F32"}, {"shape", {rows, vocab}}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = json.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // tensors begin aligned
  return text;
}

struct Model {
  const ModelShape& shape;
  std::vector<CpuLayer> layers;
  CpuHead head;
  std::optional<KvFormat> kv;  // empty: K and V stay in float
  std::vector<KvLayerStorage> storage;
};

Model load(const Session& session) {
  Model model{session.shape(), {}, load_cpu_head(*session.checkpoint()), {}, {}};
  if (session.flags().kv != "auto" || session.checkpoint()->quant().fixed_kv) model.kv = session.kv();
  model.storage = kv_storage_for(*session.checkpoint(), model.kv.value_or(KvFormat::fp16));
  for (int i = 0; i < model.shape.layers; ++i) model.layers.push_back(load_cpu_layer(*session.checkpoint(), i));
  return model;
}

// Last hidden states [tokens, hidden] of one sequence.
std::vector<float> run_layers(const Session& session, const Model& model, const Sequence& tokens) {
  const int64_t lengths[] = {static_cast<int64_t>(tokens.size())};
  std::vector<float> hidden(tokens.size() * static_cast<size_t>(model.shape.hidden));
  embed_tokens(*session.checkpoint(), tokens, hidden.data());
  for (size_t i = 0; i < model.layers.size(); ++i) {
    stop_if_interrupted("nothing was written");
    run_layer(model.shape, model.layers[i], static_cast<int>(i), lengths, hidden.data(), {}, model.kv,
              model.storage[i]);
  }
  return hidden;
}

using WriteRows = std::function<void(const float* logits, int64_t rows)>;

// By the readable layers, so that K and V can stay in float.
void write_on_cpu(const Session& session, const Sequences& sequences, const WriteRows& write) {
  const Model model = load(session);
  constexpr int64_t kRows = 128;  // logits in memory at a time
  std::vector<float> logits(static_cast<size_t>(kRows * model.shape.vocab));
  for (const Sequence& tokens : sequences.all) {
    const std::vector<float> hidden = run_layers(session, model, tokens);
    const int64_t rows = static_cast<int64_t>(tokens.size());
    for (int64_t begin = 0; begin < rows; begin += kRows) {
      const int64_t m = std::min(kRows, rows - begin);
      run_head(model.shape, model.head, hidden.data() + begin * model.shape.hidden, m, logits.data());
      write(logits.data(), m);
    }
  }
}

// By the executor, in chunks; K and V lie in the cache's format.
void write_on_gpu(const Session& session, const Sequences& sequences, const WriteRows& write) {
  constexpr int64_t kRows = 1024;
  int64_t longest = 0;
  for (const Sequence& tokens : sequences.all) longest = std::max(longest, static_cast<int64_t>(tokens.size()));
  ExecutorOptions options = session.executor_options();
  options.num_pages = longest / options.page_tokens + 1;
  options.max_rows = kRows;
  options.max_pieces = 1;
  const auto executor = session.make_executor(options);
  std::vector<int32_t> pages;
  for (int64_t page = 0; page < options.num_pages; ++page) pages.push_back(static_cast<int32_t>(page));
  for (const Sequence& tokens : sequences.all)
    for (int64_t begin = 0; begin < static_cast<int64_t>(tokens.size()); begin += kRows) {
      stop_if_interrupted("nothing was written");
      SequencePiece piece;
      piece.num_tokens = std::min(kRows, static_cast<int64_t>(tokens.size()) - begin);
      piece.context_tokens = begin;
      piece.pages = pages;
      StepOutput out;
      executor->step({std::span(tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(piece.num_tokens)),
                      std::span(&piece, 1), LogitsWanted::all},
                     out);
      write(out.logits.data(), piece.num_tokens);
    }
}

ExitCode run(const LogitsFlags& flags) {
  const Session session(flags.model);
  const Sequences sequences = read_sequences(flags.tokens, session.shape());
  const int64_t vocab = session.shape().vocab;
  AtomicFile file(flags.out);
  const std::string head = header(sequences, vocab);
  const uint64_t head_bytes = head.size();
  file.write(&head_bytes, sizeof head_bytes);
  file.write(head.data(), head.size());

  int64_t total = 0;
  for (const Sequence& tokens : sequences.all) total += static_cast<int64_t>(tokens.size());
  Progress progress("logits", total, "tokens");
  const WriteRows write = [&](const float* logits, int64_t rows) {
    file.write(logits, static_cast<size_t>(rows * vocab) * sizeof(float));
    progress.advance(rows);
  };
  if (session.executor_name() == "cpu")
    write_on_cpu(session, sequences, write);
  else
    write_on_gpu(session, sequences, write);
  file.commit();
  return ExitCode::done;
}

const RegisterVerb kVerb(
    {75, "logits",
     "Float32 logits of given tokens, for comparing with other implementations.\n"
     "Unlike elsewhere, --kv auto keeps K and V in float on the CPU unless the checkpoint fixes their format.",
     "quantgrid logits --model models/smollm2-135m-instruct --tokens ids.json --out logits.safetensors",
     [](CLI::App& command) {
       auto flags = std::make_shared<LogitsFlags>();
       declare_model_flags(command, flags->model);
       command.add_option("--tokens", flags->tokens, "JSON: a list of token numbers, or a list of such lists")
           ->required();
       command.add_option("--out", flags->out, "safetensors file: logits, or logits.0, logits.1, …; [tokens, vocab]")
           ->required();
       return [flags] { return run(*flags); };
     }});

}  // namespace
}  // namespace qg
