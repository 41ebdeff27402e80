// What is scored: the windows of a text, and the choices of a question.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/error.h"
#include "eval/choices.h"
#include "eval/fidelity.h"
#include "eval/windows.h"
#include "tests/eval/fake_executor.h"

namespace qg {
namespace {

Tokenizer golden_tokenizer(const char* folder = "tokenizer/llama3") {
  return Tokenizer::from_folder(std::filesystem::path(QG_SOURCE_DIR) / "tests/golden" / folder);
}

class TextFile {
 public:
  explicit TextFile(const std::string& text)
      : path_(testing::TempDir() + "eval_text-" + std::to_string(getpid()) + ".txt") {
    std::ofstream(path_) << text;
  }
  ~TextFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string words(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "word " + std::to_string(i * 7919 % 1000) + ", ";
  return text;
}

TEST(Windows, FollowEachOtherWithoutOverlap) {
  const Tokenizer tokenizer = golden_tokenizer("models/llama-gqa4-llama3rope-bf16");
  const std::string text = words(200);
  const TextFile file(text);
  const std::vector<int32_t> all = tokenizer.encode(text, false);
  for (const bool bos : {false, true}) {
    EvalProtocol protocol;
    protocol.windows = 3;
    protocol.window = 20;
    protocol.bos = bos;
    const EvalText cut = cut_windows(tokenizer, file.path(), protocol);
    ASSERT_EQ(cut.windows.size(), 3u);
    std::vector<int32_t> joined;
    for (const auto& window : cut.windows) {
      ASSERT_EQ(window.size(), 20u);
      if (bos) {
        EXPECT_EQ(window.front(), *tokenizer.bos());
      }
      joined.insert(joined.end(), window.begin() + bos, window.end());
    }
    EXPECT_TRUE(std::equal(joined.begin(), joined.end(), all.begin())) << "bos " << bos;
    EXPECT_EQ(cut.scored_tokens(), 3 * 19);
  }
}

TEST(Windows, SayHowManyATextGives) {
  const Tokenizer tokenizer = golden_tokenizer();
  const TextFile file(words(10));
  EvalProtocol protocol;
  protocol.windows = 50;
  protocol.window = 16;
  try {
    cut_windows(tokenizer, file.path(), protocol);
    FAIL() << "a text that is too short was cut";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("--windows "), std::string::npos) << e.what();
  }
}

TEST(Choices, LogitsThatAreNotFiniteAreNoAnswer) {
  const Tokenizer tokenizer = golden_tokenizer();
  FakeExecutor executor(tokenizer.vocab_size(), 2, std::nan(""));
  const ChoiceItem item{"item", "Question 1 is:", "", {" one", " two"}, 0};
  EXPECT_THROW(score_choices(executor, tokenizer, {&item, 1}, [] {}), Error);
}

// The right answer is the choice of the greatest summed log-probability, whatever its place or length.
TEST(Choices, TheMostLikelyOneIsRight) {
  const Tokenizer tokenizer = golden_tokenizer();
  FakeExecutor executor(tokenizer.vocab_size(), 2, 0.5);
  int firsts = 0;
  for (int i = 0; i < 12; ++i) {
    ChoiceItem item;
    item.id = "item";
    item.prompt = "Question " + std::to_string(i) + " is:";
    item.choices = {" one", " two", " three"};
    const std::vector<int32_t> context = tokenizer.encode(item.prompt, true);
    std::vector<double> sums;
    for (const std::string& choice : item.choices) {
      const std::vector<int32_t> tokens = tokenizer.encode(item.prompt + choice, true);
      ASSERT_GT(tokens.size(), context.size());
      ASSERT_TRUE(std::equal(context.begin(), context.end(), tokens.begin())) << "choose a prompt that is not merged";
      double sum = 0;
      for (size_t at = context.size(); at < tokens.size(); ++at) {
        std::vector<float> logits;
        for (int64_t v = 0; v < tokenizer.vocab_size(); ++v)
          logits.push_back(executor.logit(tokens[at - 1], static_cast<int64_t>(at) - 1, v));
        sum += static_cast<double>(logits[static_cast<size_t>(tokens[at])]) - log_sum_exp(logits);
      }
      sums.push_back(sum);
    }
    const auto best = std::max_element(sums.begin(), sums.end()) - sums.begin();
    firsts += best == 0;
    for (item.answer = 0; item.answer < 3; ++item.answer)
      EXPECT_EQ(score_choices(executor, tokenizer, {&item, 1}, [] {}).at(0), item.answer == best ? 1 : 0) << i;
  }
  EXPECT_GT(firsts, 0);
  EXPECT_LT(firsts, 12);
}

}  // namespace
}  // namespace qg
