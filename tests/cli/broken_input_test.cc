// Broken inputs through the command line: each ends with one clear message that names the trouble, exit code 1, no
// crash, and nothing half-written.
#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <set>

#include "tests/cli/program.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(QG_SOURCE_DIR) / "tests/golden";

struct Broken {
  const char* name;
  std::function<void(const fs::path&)>
      prepare;  // in a folder with `model` (a sound tiny Llama) and `ckpt` (TensorRT-LLM, FP8)
  const char* arguments;
  const char* expected;  // part of the message
  int exit_code = 1;
};

void replace_in(const fs::path& file, const std::string& from, const std::string& to) {
  std::string text = read_text(file);
  const size_t at = text.find(from);
  if (at == std::string::npos) throw std::runtime_error(file.string() + " does not hold " + from);
  write_text(file, text.replace(at, from.size(), to));
}

// A safetensors file: 8 bytes of header length, header, data.
std::string safetensors(const std::string& header, const std::string& data = "") {
  std::string text(8, '\0');
  for (size_t i = 0, n = header.size(); i < 8; ++i, n >>= 8) text[i] = static_cast<char>(n & 255);
  return text + header + data;
}

void with_weights(const fs::path& d, const std::string& text) {
  write_text(d / "model/model.safetensors", text);
}
void config(const fs::path& d, const std::string& from, const std::string& to) {
  replace_in(d / "model/config.json", from, to);
}

// Cuts the last `bytes` off.
void cut(const fs::path& file, size_t bytes) {
  const std::string text = read_text(file);
  write_text(file, text.substr(0, text.size() - bytes));
}

const char* const kInspect = "inspect model";
const char* const kLogits = "logits --model model --tokens ids.json --out out.safetensors";
const char* const kPlan = "plan grid.toml";
const char* const kEval = "eval --model model --text text.txt --windows 1 --window 16";

std::string grid(const std::string& body) {
  return "title = \"t\"\nmodels_dir = \".\"\n" + body;
}
const char* const kProduct =
    "[[product]]\nsection = \"must\"\nmodels = [\"llama-3.2-3b\"]\ngpus = [\"a100\"]\nweights = [\"fp8\"]\nkv = "
    "[\"fp16\"]\n";

const std::vector<Broken>& cases() {
  static const std::vector<Broken> all{
      // model folders
      {"NoSuchFolder", {}, "inspect nowhere", "nowhere"},
      {"FolderIsFile", [](auto& d) { write_text(d / "file", "x"); }, "inspect file", "file"},
      {"EmptyFolder", [](auto& d) { fs::create_directory(d / "empty"); }, "inspect empty", "empty"},
      {"PytorchBin",
       [](auto& d) {
         fs::remove(d / "model/model.safetensors");
         write_text(d / "model/pytorch_model.bin", "x");
       },
       kInspect, "pytorch_model.bin"},
      {"Gguf",
       [](auto& d) {
         fs::create_directory(d / "g");
         write_text(d / "g/model.gguf", "GGUF");
       },
       "inspect g", "GGUF"},
      {"ConfigEmpty", [](auto& d) { write_text(d / "model/config.json", ""); }, kInspect, "config.json"},
      {"ConfigNotJson", [](auto& d) { write_text(d / "model/config.json", "{\"a\": }"); }, kInspect, "not valid JSON"},
      {"ConfigIsList", [](auto& d) { write_text(d / "model/config.json", "[]"); }, kInspect, "object"},
      {"ConfigTooDeep", [](auto& d) { write_text(d / "model/config.json", std::string(100000, '[')); }, kInspect,
       "nested"},
      {"ArchitectureUnknown", [](auto& d) { config(d, "LlamaForCausalLM", "GptOssForCausalLM"); }, kInspect, "GptOss"},
      {"HiddenSizeMissing", [](auto& d) { config(d, "\"hidden_size\"", "\"hidden_sise\""); }, kInspect, "hidden_size"},
      {"HiddenSizeText", [](auto& d) { config(d, "\"hidden_size\": ", "\"hidden_size\": \"x\", \"was\": "); }, kInspect,
       "hidden_size"},
      {"HiddenSizeNegative", [](auto& d) { config(d, "\"hidden_size\": ", "\"hidden_size\": -"); }, kInspect,
       "hidden_size"},
      {"HiddenSizeHuge", [](auto& d) { config(d, "\"hidden_size\": ", "\"hidden_size\": 999999999999"); }, kInspect,
       "hidden_size"},
      {"LayersZero", [](auto& d) { config(d, "\"num_hidden_layers\": ", "\"num_hidden_layers\": 0, \"was\": "); },
       kInspect, "num_hidden_layers"},
      {"KvHeadsDoNotDivide",
       [](auto& d) { config(d, "\"num_key_value_heads\": ", "\"num_key_value_heads\": 7, \"was\": "); }, kInspect,
       "head"},
      {"ActivationUnknown", [](auto& d) { config(d, "\"silu\"", "\"gelu\""); }, kInspect, "hidden_act"},
      {"QuantizedFolder", [](auto& d) { config(d, "{", "{\"quantization_config\": {\"quant_method\": \"gptq\"},"); },
       kInspect, "gptq"},
      {"VocabularyDiffers", [](auto& d) { config(d, "\"vocab_size\": ", "\"vocab_size\": 1"); }, kInspect, "shape"},
      // safetensors
      {"WeightsEmpty", [](auto& d) { with_weights(d, ""); }, kInspect, "safetensors"},
      {"WeightsShort", [](auto& d) { with_weights(d, "abc"); }, kInspect, "safetensors"},
      {"HeaderLengthHuge", [](auto& d) { with_weights(d, std::string(8, '\xff') + "{}"); }, kInspect, "header"},
      {"HeaderNotJson", [](auto& d) { with_weights(d, safetensors("not json")); }, kInspect, "safetensors"},
      {"HeaderIsList", [](auto& d) { with_weights(d, safetensors("[]")); }, kInspect, "safetensors"},
      {"DtypeUnknown",
       [](auto& d) { with_weights(d, safetensors(R"({"a":{"dtype":"F7","shape":[1],"data_offsets":[0,1]}})", "x")); },
       kInspect, "F7"},
      {"OffsetsBackwards",
       [](auto& d) { with_weights(d, safetensors(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", "x")); },
       kInspect, "tensor a: bytes 1 to 0"},
      {"OffsetsBeyondEnd",
       [](auto& d) { with_weights(d, safetensors(R"({"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}})", "x")); },
       kInspect, "tensor a"},
      {"ShapeDoesNotMatch",
       [](auto& d) {
         with_weights(d, safetensors(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}})", "xxxx"));
       },
       kInspect, "tensor a"},
      {"ShapeOverflows",
       [](auto& d) {
         with_weights(
             d, safetensors(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,4]}})", "xxxx"));
       },
       kInspect, "tensor a"},
      {"Overlap",
       [](auto& d) {
         with_weights(
             d,
             safetensors(
                 R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                 "xxx"));
       },
       kInspect, "overlap"},
      {"Gap",
       [](auto& d) {
         with_weights(
             d,
             safetensors(
                 R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                 "xxx"));
       },
       kInspect, "safetensors"},
      {"DuplicateName",
       [](auto& d) {
         with_weights(
             d,
             safetensors(
                 R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                 "xx"));
       },
       kInspect, "appears twice"},
      {"TrailingBytes",
       [](auto& d) { write_text(d / "model/model.safetensors", read_text(d / "model/model.safetensors") + "more"); },
       kInspect, "model.safetensors"},
      {"WeightsCut", [](auto& d) { cut(d / "model/model.safetensors", 100); }, kInspect, "model.safetensors"},
      {"ShardMissing", [](auto& d) { fs::remove(d / "sharded/model-00002-of-00003.safetensors"); }, "inspect sharded",
       "model-00002-of-00003"},
      {"IndexNamesOtherFolder",
       [](auto& d) {
         replace_in(d / "sharded/model.safetensors.index.json", "model-00001-of-00003", "../model-00001-of-00003");
       },
       "inspect sharded", "index.json"},
      {"IndexNotJson", [](auto& d) { write_text(d / "sharded/model.safetensors.index.json", "{"); }, "inspect sharded",
       "index.json"},
      // TensorRT-LLM folders
      {"TrtConfigCut", [](auto& d) { cut(d / "ckpt/config.json", 20); }, "inspect ckpt", "config.json"},
      {"TrtAlgorithmUnknown", [](auto& d) { replace_in(d / "ckpt/config.json", "\"FP8\"", "\"FP9\""); }, "inspect ckpt",
       "FP9"},
      {"TrtRankMissing", [](auto& d) { fs::remove(d / "ckpt/rank0.safetensors"); }, "inspect ckpt",
       "no safetensors weights"},
      {"TrtRankCut", [](auto& d) { cut(d / "ckpt/rank0.safetensors", 64); }, "inspect ckpt", "rank0.safetensors"},
      {"LineageBroken", [](auto& d) { write_text(d / "ckpt/quantgrid_lineage.json", "{\"base_model\": 3}"); },
       "inspect ckpt", "quantgrid_lineage.json"},
      // tokens and logits
      {"TokensMissing", [](auto& d) { fs::remove(d / "ids.json"); }, kLogits, "ids.json"},
      {"TokensNotJson", [](auto& d) { write_text(d / "ids.json", "1, 2"); }, kLogits, "ids.json"},
      {"TokensEmpty", [](auto& d) { write_text(d / "ids.json", "[]"); }, kLogits, "ids.json"},
      {"TokensText", [](auto& d) { write_text(d / "ids.json", "[\"a\"]"); }, kLogits, "ids.json"},
      {"TokensNegative", [](auto& d) { write_text(d / "ids.json", "[1, -2]"); }, kLogits, "-2"},
      {"TokensBeyondVocabulary", [](auto& d) { write_text(d / "ids.json", "[1, 999999]"); }, kLogits, "999999"},
      {"TokensFraction", [](auto& d) { write_text(d / "ids.json", "[1.5]"); }, kLogits, "ids.json"},
      {"OutputFolderMissing", {}, "logits --model model --tokens ids.json --out nowhere/out.safetensors", "nowhere"},
      {"KvInt8WithoutScales", {}, "logits --model model --tokens ids.json --out out.safetensors --kv int8", "int8"},
      {"KvUnknown", {}, "logits --model model --tokens ids.json --out out.safetensors --kv fp4", "fp4"},
      // tokenizer
      {"TokenizerMissing", [](auto& d) { fs::remove(d / "model/tokenizer.json"); }, kEval, "tokenizer.json"},
      {"TokenizerNotJson", [](auto& d) { write_text(d / "model/tokenizer.json", "{"); }, kEval, "tokenizer.json"},
      {"TokenizerModelUnknown",
       [](auto& d) { write_text(d / "model/tokenizer.json", R"({"model":{"type":"Unigram","vocab":[]}})"); }, kEval,
       "Unigram"},
      // texts
      {"TextMissing", [](auto& d) { fs::remove(d / "text.txt"); }, kEval, "text.txt"},
      {"TextTooShort", [](auto& d) { write_text(d / "text.txt", "hi"); }, kEval, "text.txt"},
      {"TextIsFolder",
       [](auto& d) {
         fs::remove(d / "text.txt");
         fs::create_directory(d / "text.txt");
       },
       kEval, "text.txt"},
      {"NothingToEvaluate", {}, "eval --model model", "--text"},
      {"WindowOfOne", {}, "eval --model model --text text.txt --window 1", "--window"},
      {"AlsoWithoutText", {}, "eval --model model --tasks tasks.jsonl --also model", "--also"},
      {"TasksNotJson", [](auto& d) { write_text(d / "tasks.jsonl", "hello\n"); },
       "eval --model model --tasks tasks.jsonl", "line 1"},
      {"TasksWithoutChoices", [](auto& d) { write_text(d / "tasks.jsonl", "{\"prompt\": \"a\", \"answer\": 0}\n"); },
       "eval --model model --tasks tasks.jsonl", "choices"},
      // quantize and convert
      {"CalibrationTooShort", [](auto& d) { write_text(d / "text.txt", "hi"); },
       "quantize --model model --weights fp8 --calib text.txt --out q", "text.txt"},
      {"QuantizeToNothing", {}, "quantize --model model --calib text.txt", "nothing says what to make"},
      {"QuantizeWithoutFolder",
       {},
       "quantize --model model --weights fp8 --calib text.txt",
       "nothing says what to make"},
      {"KvScalesMissing",
       {},
       "logits --model model --tokens ids.json --out out.safetensors --kv-scales no.safetensors",
       "no.safetensors"},
      {"KvScalesOfAnotherShape",
       [](const fs::path& d) {
         write_text(
             d / "kv.safetensors",
             safetensors(R"({"fp8.k":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}      )", std::string(4, '\0')));
       },
       "logits --model model --tokens ids.json --out out.safetensors --kv fp8 --kv-scales kv.safetensors",
       "one scale a layer"},
      {"WeightsUnknown", {}, "quantize --model model --weights int3 --calib text.txt --out q", "int3"},
      {"QuantizeQuantized",
       {},
       "quantize --model ckpt --weights fp8 --calib text.txt --out q --tokenizer model --calib-sequences 2 "
       "--calib-tokens 16",
       "quantized already"},
      {"OutputExists", [](auto& d) { write_text(d / "q/file", "x"); },
       "quantize --model model --weights fp8 --calib text.txt --out q --calib-sequences 2 --calib-tokens 16", "exists"},
      {"ConvertToItself", {}, "convert --model ckpt --out ckpt --kv fp8", "ckpt"},
      // grids
      {"GridMissing", {}, "plan nowhere.toml", "nowhere.toml"},
      {"GridNotToml", [](auto& d) { write_text(d / "grid.toml", "= 3"); }, kPlan, "grid.toml"},
      {"GridTableWithoutKey", [](auto& d) { write_text(d / "grid.toml", "title = \"t\"\n[= 3\n"); }, kPlan,
       "grid.toml:2"},
      {"GridEmpty", [](auto& d) { write_text(d / "grid.toml", ""); }, kPlan, "grid.toml"},
      {"GridUnknownKey",
       [](auto& d) { write_text(d / "grid.toml", grid(std::string(kProduct) + "wights = [\"fp8\"]\n")); }, kPlan,
       "wights"},
      {"GridUnknownCard",
       [](auto& d) {
         write_text(d / "grid.toml", grid(kProduct));
         replace_in(d / "grid.toml", "a100", "a1000");
       },
       kPlan, "a1000"},
      {"GridUnknownWeights",
       [](auto& d) {
         write_text(d / "grid.toml", grid(kProduct));
         replace_in(d / "grid.toml", "fp8", "fp9");
       },
       kPlan, "fp9"},
      {"GridWrongType",
       [](auto& d) {
         write_text(d / "grid.toml", grid(kProduct));
         replace_in(d / "grid.toml", "[\"a100\"]", "7");
       },
       kPlan, "gpus"},
      {"FilterBroken", [](auto& d) { write_text(d / "grid.toml", grid(kProduct)); }, "plan grid.toml --filter 'gpu='",
       "gpu="},
      {"FilterUnknownWord", [](auto& d) { write_text(d / "grid.toml", grid(kProduct)); },
       "plan grid.toml --filter 'card=a100'", "card"},
      {"TargetUnknown", [](auto& d) { write_text(d / "grid.toml", grid(kProduct)); }, "plan grid.toml --target b200",
       "b200"},
      {"EngineUnknown", [](auto& d) { write_text(d / "grid.toml", grid(kProduct)); }, "plan grid.toml --engine sglang",
       "sglang"},
      // journals
      {"JournalMissing", {}, "pick nowhere.jsonl", "nowhere.jsonl"},
      {"JournalGarbage", [](auto& d) { write_text(d / "j.jsonl", "garbage\ngarbage\n"); }, "merge j.jsonl -o all.db",
       "line 1"},
      {"JournalWrongLine", [](auto& d) { write_text(d / "j.jsonl", "{\"type\": \"dance\"}\n{}\n"); },
       "report j.jsonl -o report.html", "line 1"},
      // use
      {"NoVerb", {}, "", "subcommand"},
      {"UnknownVerb", {}, "quantise --model model", "did you mean 'quantize'?"},
      {"VerbOfNobody", {}, "dance", "there is no verb 'dance'"},
      {"UnknownFlag", {}, "plan --fast grid.toml", "--fast"},
      {"BatchAndRate", {}, "bench --model model --batch 2 --rate 3", "exclude"},
      {"RoundsOfARate", {}, "bench --model model --rate 3 --rounds 2", "exclude"},
      {"RoundsInFlight", {}, "bench --model model --concurrency 3 --rounds 2", "exclude"},
      {"Bf16OnTheCpu", {}, "generate --model model --prompt hi --executor cpu --dtype bf16", "float"},
      {"Bf16OfQuantizedWeights",
       {},
       "logits --model ckpt --tokens ids.json --out out.safetensors --executor cpu --dtype bf16",
       "weights are fp8"},
      {"TypeUnknown", {}, "generate --model model --prompt hi --dtype fp32", "fp32"},
      {"WeightsOfAFolder", {}, "bench --model model --weights fp8 --isl 4 --osl 4", "--weights-from"},
      {"ZeroPointsOfFp8",
       {},
       "quantize --model model --weights fp8 --zero-points --calib text.txt --out q",
       "--zero-points"},
      {"GroupsOfInt8",
       {},
       "quantize --model model --weights int8_sq --group-size 64 --calib text.txt --out q",
       "--group-size"},
      {"CalibrationShorterThanASequence", [](auto& d) { write_text(d / "text.txt", "a few words"); },
       "quantize --model model --weights fp8 --calib text.txt --out q", "use a longer text"},
      {"Fp8AsAutoAwq", {}, "convert --model ckpt --layout autoawq --out q", "it is for int4_awq"},
      {"FolderCannotBeMade", [](auto& d) { write_text(d / "grid.toml", grid(kProduct)); },
       "submit grid.toml --slurm --dry-run --out /proc/none", "/proc/none"},
      {"NoGpu", {}, "generate --model model --prompt hi --executor cuda", "CUDA", 4},
      {"NoScheduler", {}, "submit grid.toml", "add --slurm"},
      {"NativeServerWithText", {}, "run grid.toml --served --prompts text", "--prompts"},
      {"ServerWithAWindow", {}, "run grid.toml --engine openai --base-url http://127.0.0.1:1 --window 60", "--window"},
      {"NoServer", {}, "bench --engine openai --isl 8 --osl 8", "--base-url"},
      {"NoTls", {}, "bench --engine openai --base-url https://127.0.0.1", "no TLS"},
  };
  return all;
}

std::set<std::string> files_under(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    names.insert(fs::relative(entry.path(), folder).string());
  return names;
}

class BrokenInput : public testing::TestWithParam<size_t> {};

TEST_P(BrokenInput, EndsWithOneClearMessage) {
  const Broken& broken = cases()[GetParam()];
  const fs::path folder = fresh_folder(std::string("broken-") + broken.name);
  fs::copy(kGolden / "models/llama-gqa3-tied-fp16", folder / "model", fs::copy_options::recursive);
  fs::copy(kGolden / "models/llama-gqa4-llama3rope-bf16", folder / "sharded", fs::copy_options::recursive);
  fs::copy(kGolden / "trtllm/fp8", folder / "ckpt", fs::copy_options::recursive);
  write_text(folder / "ids.json", "[1, 2, 3]");
  std::string text;
  for (int i = 0; i < 400; ++i) text += "word " + std::to_string(i) + " ";
  write_text(folder / "text.txt", text);
  if (broken.prepare) broken.prepare(folder);

  const std::set<std::string> before = files_under(folder);
  const Outcome outcome = run_program(broken.arguments, folder);
  EXPECT_EQ(outcome.exit_code, broken.exit_code) << outcome.err;
  EXPECT_NE(outcome.err.find(broken.expected), std::string::npos) << "message: " << outcome.err;
  EXPECT_EQ(outcome.err.find("internal error"), std::string::npos) << outcome.err;
  EXPECT_LT(outcome.err.size(), 1500u) << "one clear message, not a page: " << outcome.err;
  EXPECT_EQ(files_under(folder), before) << "something was left behind";
  fs::remove_all(folder);
}

INSTANTIATE_TEST_SUITE_P(Cli, BrokenInput, testing::Range(size_t{0}, cases().size()),
                         [](const auto& instance) { return cases()[instance.param].name; });

TEST(BrokenInputs, AreAtLeastSixty) {
  EXPECT_GE(cases().size(), 60u);
}

}  // namespace
}  // namespace qg
