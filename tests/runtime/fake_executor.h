#pragma once
// An executor without a model, for tests of everything above it. Its "KV cache" holds one number a token, made of the
// token and of all numbers before it as they are read back through the page list; the sampled token is a hash of them
// all. So any mix-up of pages, a page that is written twice or too early, a wrong context length or a stale prefix
// changes the tokens. It also refuses input that the executor interface does not allow.
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/rng.h"
#include "runtime/engine.h"

namespace qg {

struct FakeOptions {
  int64_t page_tokens = 4, num_pages = 64, max_rows = 64, vocab = 97, max_position = 0;
};

class FakeExecutor : public Executor {
 public:
  explicit FakeExecutor(FakeOptions options) : options_(options), memory_(options.num_pages * options.page_tokens) {
    table_.shape.vocab = options.vocab;
    table_.shape.max_position = options.max_position;
    for (size_t i = 0; i < memory_.size(); ++i) memory_[i] = mix64(i + 12345);
  }

  // What the sequence state becomes with one more token at `position`; what a cell holds; what is sampled from a state.
  static uint64_t cell(uint64_t state, int32_t token, int64_t position) {
    return mix64(state ^ mix64(static_cast<uint64_t>(token) * 0x10001 + static_cast<uint64_t>(position)));
  }
  static uint64_t fold(uint64_t state, uint64_t cell) { return mix64(state * 3 + cell); }
  static int32_t sampled(uint64_t state, int64_t output_position, const SamplingParams& sampling, int64_t vocab) {
    uint64_t draw = state;
    if (sampling.temperature > 0) draw = mix64(draw + sampling.seed * 77 + static_cast<uint64_t>(output_position));
    return static_cast<int32_t>(draw % static_cast<uint64_t>(vocab));
  }

  const ModelTable& table() const override { return table_; }
  KvFormat kv_format() const override { return KvFormat::fp16; }
  int64_t page_tokens() const override { return options_.page_tokens; }
  int64_t num_pages() const override { return options_.num_pages; }
  int64_t max_rows() const override { return options_.max_rows; }
  void copy_page(int32_t, int32_t) override { throw std::logic_error("no page is ever copied"); }
  void set_tap(Tap) override {}
  std::vector<std::string> kernels() const override { return {"fake"}; }
  ComputePath compute_path() const override { return ComputePath::w16a16; }
  int64_t weight_bytes() const override { return 0; }
  int64_t kv_pool_bytes() const override { return static_cast<int64_t>(memory_.size() * sizeof(uint64_t)); }
  std::string name() const override { return "fake"; }

  void step(const StepInput& input, StepOutput& output) override {
    ++steps;
    if (fail_at_step == steps || (fail_from_step > 0 && steps >= fail_from_step))
      throw std::runtime_error("the fake executor fails as it was told to");
    check(input);
    output.sampled.assign(input.pieces.size(), -1);
    output.logits.clear();
    for (size_t i = 0; i < input.pieces.size(); ++i) output.sampled[i] = run_piece(input, input.pieces[i], output);
    if (record) history.emplace_back(input.pieces.begin(), input.pieces.end());
  }

  int64_t steps = 0, fail_at_step = -1, fail_from_step = -1;
  std::set<int32_t> poison;  // after one of these tokens a sequence's logits are no numbers any more
  bool record = false;
  std::vector<std::vector<SequencePiece>> history;  // `pages` and tokens dangle: lengths only

 protected:
  void require(bool condition, const char* what) const {
    if (!condition) throw std::logic_error(what);
  }
  const FakeOptions& fake_options() const { return options_; }

 private:
  void check(const StepInput& input) const {
    require(!input.pieces.empty(), "a step without pieces");
    require(static_cast<int64_t>(input.tokens.size()) <= options_.max_rows, "more rows than allowed");
    int64_t rows = 0;
    std::set<int32_t> written;
    for (const SequencePiece& piece : input.pieces) {
      require(piece.first_row == rows && piece.num_tokens > 0, "pieces do not follow each other");
      rows += piece.num_tokens;
      const int64_t end = piece.context_tokens + piece.num_tokens;
      const int64_t pages = (end + options_.page_tokens - 1) / options_.page_tokens;
      require(static_cast<int64_t>(piece.pages.size()) == pages, "pages do not cover the tokens");
      for (const int32_t page : piece.pages) require(page >= 0 && page < options_.num_pages, "no such page");
      for (int64_t p = piece.context_tokens / options_.page_tokens; p < pages; ++p)
        require(written.insert(piece.pages[p]).second, "two sequences write one page");
    }
    require(rows == static_cast<int64_t>(input.tokens.size()), "rows and pieces disagree");
    for (const SequencePiece& piece : input.pieces)
      for (int64_t p = 0; p < piece.context_tokens / options_.page_tokens; ++p)
        require(!written.contains(piece.pages[p]), "a page is written while another sequence reads it");
  }

  uint64_t& at(const SequencePiece& piece, int64_t position) {
    return memory_[piece.pages[position / options_.page_tokens] * options_.page_tokens +
                   position % options_.page_tokens];
  }

  int32_t run_piece(const StepInput& input, const SequencePiece& piece, StepOutput& output) {
    uint64_t state = 0;
    bool poisoned = false;
    for (int64_t p = 0; p < piece.context_tokens; ++p) {
      state = fold(state, at(piece, p));
      poisoned |= at(piece, p) == kPoisoned;
    }
    for (int64_t i = 0; i < piece.num_tokens; ++i) {
      const int64_t position = piece.context_tokens + i;
      const int32_t token = input.tokens[piece.first_row + i];
      require(token >= 0 && token < options_.vocab, "no such token");
      at(piece, position) = poison.contains(token) ? kPoisoned : cell(state, token, position);
      poisoned |= at(piece, position) == kPoisoned;
      state = fold(state, at(piece, position));
      const bool last = i + 1 == piece.num_tokens;
      if (input.logits == LogitsWanted::all || (input.logits == LogitsWanted::sampled && last && piece.sample))
        push_logits(state, output);
    }
    if (piece.sample && poisoned) return kNotFinite;
    return piece.sample ? sampled(state, piece.output_position, piece.sampling, options_.vocab) : -1;
  }

  void push_logits(uint64_t state, StepOutput& output) const {
    const int32_t best = sampled(state, 0, {}, options_.vocab);
    for (int32_t v = 0; v < options_.vocab; ++v) output.logits.push_back(v == best ? 1.0f : 0.0f);
  }

  static constexpr uint64_t kPoisoned = 0xdeadbeef;

  FakeOptions options_;
  ModelTable table_;
  std::vector<uint64_t> memory_;
};

struct Reply {
  std::vector<int32_t> tokens;
  FinishReason finish = FinishReason::none;
  bool operator==(const Reply&) const = default;
};

// What the fake executor's model says, computed without engine, pages or batches. poison: the executor's.
inline Reply expected_reply(const Request& request, int64_t vocab, const std::set<int32_t>& poison = {}) {
  Reply reply;
  uint64_t state = 0;
  int64_t position = 0;
  bool poisoned = false;
  const auto feed = [&](int32_t token) {
    poisoned |= poison.contains(token);
    state = FakeExecutor::fold(state, FakeExecutor::cell(state, token, position++));
  };
  for (const int32_t token : request.prompt) feed(token);
  reply.finish = poisoned ? FinishReason::failed : FinishReason::length;
  for (int64_t i = 0; i < request.max_tokens; ++i) {
    if (poisoned) {
      reply.finish = FinishReason::failed;
      break;
    }
    const int32_t token = FakeExecutor::sampled(state, i, request.sampling, vocab);
    reply.tokens.push_back(token);
    bool stops = false;
    for (const int32_t stop : request.stop_tokens) stops = stops || stop == token;
    if (stops && !request.ignore_stop) {
      reply.finish = FinishReason::stop;
      break;
    }
    feed(token);
  }
  return reply;
}

}  // namespace qg
