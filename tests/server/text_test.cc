// From tokens to what a client reads: stop strings, characters, log-probabilities, framing.
#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "server/choice_text.h"
#include "server/reply_json.h"
#include "server/stop_strings.h"
#include "server/token_logprobs.h"
#include "tests/server/running_server.h"
#include "tokenizer/utf8.h"

namespace qg {
namespace {

// What comes out when `text` is given in parts of `step` bytes.
std::string stopped(const std::string& text, const std::vector<std::string>& stops, size_t step, bool include = false,
                    bool* found = nullptr) {
  StopStrings holder(stops, include);
  std::string out;
  for (size_t at = 0; at < text.size() && !holder.found(); at += step) out += holder.push(text.substr(at, step));
  if (!holder.found()) out += holder.finish();
  if (found) *found = holder.found();
  return out;
}

TEST(StopStrings, AreFoundWhateverThePartsTheyComeIn) {
  struct Case {
    std::string text;
    std::vector<std::string> stops;
    std::string expected, with_stop;
    bool found;
  };
  const std::vector<Case> cases = {
      {"hello world", {}, "hello world", "hello world", false},
      {"hello world", {"lo w"}, "hel", "hello w", true},
      {"hello world", {"xyz"}, "hello world", "hello world", false},
      {"hello wor", {"world"}, "hello wor", "hello wor", false},
      {"aaab", {"aab"}, "a", "aaab", true},
      {"abababc", {"ababc"}, "ab", "abababc", true},
      {"abcde", {"cd", "abcde"}, "ab", "abcd", true},  // the one that is complete first
      {"abcde", {"abcd", "cd"}, "", "abcd", true},     // of those that end together the longest
      {"x", {"x"}, "", "x", true},
      {"one\n\ntwo\n", {"\n\n"}, "one", "one\n\n", true},
      {"Grüße", {"ße"}, "Grü", "Grüße", true},
  };
  for (const Case& c : cases)
    for (size_t step = 1; step <= c.text.size(); ++step) {
      bool found = !c.found;
      EXPECT_EQ(stopped(c.text, c.stops, step, false, &found), c.expected) << c.text << " by " << step;
      EXPECT_EQ(found, c.found) << c.text << " by " << step;
      EXPECT_EQ(stopped(c.text, c.stops, step, true), c.with_stop) << c.text << " by " << step;
    }
}

TEST(StopStrings, RandomTextsDoNotDependOnTheParts) {
  Rng rng(7);
  for (int round = 0; round < 3000; ++round) {
    const auto word = [&](uint64_t longest) {
      std::string text;
      for (uint64_t i = rng.next_below(longest) + 1; i > 0; --i) text += static_cast<char>('a' + rng.next_below(2));
      return text;
    };
    const std::string text = word(30);
    std::vector<std::string> stops;
    for (uint64_t i = rng.next_below(3) + 1; i > 0; --i) stops.push_back(word(5));
    const std::string whole = stopped(text, stops, 1);
    for (const size_t step : {2u, 3u, 7u, 100u}) ASSERT_EQ(stopped(text, stops, step), whole) << text << " by " << step;
    for (const std::string& stop : stops) ASSERT_EQ(whole.find(stop), std::string::npos);
  }
}

TEST(StopStrings, HoldBackOnlyWhatMayBecomeOne) {
  StopStrings holder({"END"});
  EXPECT_EQ(holder.push("text E"), "text ");
  EXPECT_EQ(holder.push("N"), "");
  EXPECT_EQ(holder.push("E"), "EN");  // it was none, but this may be one
  EXPECT_EQ(holder.held_bytes(), 1);
  EXPECT_EQ(holder.push("ND more"), "");
  EXPECT_TRUE(holder.found());
  EXPECT_EQ(holder.push("more"), "");
}

TEST(TokenLogprobs, AgreeWithTheDefinition) {
  const std::vector<float> logits = {1, 3, -2, 3, 0};
  const TokenLogprobs got = token_logprobs(logits, 2, 3);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit);
  EXPECT_NEAR(got.chosen, -2 - std::log(sum), 1e-6);
  ASSERT_EQ(got.top.size(), 3u);
  EXPECT_EQ(got.top[0].first, 1);  // ties: the lowest id first
  EXPECT_EQ(got.top[1].first, 3);
  EXPECT_EQ(got.top[2].first, 0);
  EXPECT_NEAR(got.top[2].second, 1 - std::log(sum), 1e-6);
  EXPECT_EQ(token_logprobs(logits, 0, 9).top.size(), 5u);
  EXPECT_TRUE(token_logprobs(logits, 0, 0).top.empty());
  const std::vector<float> large = {1000, 999};
  EXPECT_NEAR(token_logprobs(large, 0, 0).chosen, -std::log(1 + std::exp(-1)), 1e-6);
}

ApiRequest request_with(std::vector<std::string> stops, bool include = false) {
  ApiRequest request;
  request.stop = std::move(stops);
  request.include_stop = include;
  return request;
}

TEST(ChoiceText, NeverSplitsACharacterAndIsWhatTheTokenizerSays) {
  const Tokenizer tokenizer = chatting_tokenizer();
  Rng rng(3);
  for (int round = 0; round < 200; ++round) {
    ChoiceText text(tokenizer, request_with({}));
    std::vector<int32_t> tokens;
    std::string all;
    for (int i = 0; i < 40; ++i) {
      tokens.push_back(static_cast<int32_t>(3 + rng.next_below(320)));  // random bytes: broken characters abound
      text.push(tokens.back(), {}, false);
      const std::string part = text.take_text();
      ASSERT_TRUE(is_utf8(part));
      all += part;
    }
    text.finish(FinishReason::length);
    all += text.take_text();
    ASSERT_EQ(all, tokenizer.decode(tokens));
    EXPECT_EQ(text.finish_reason(), "length");
    EXPECT_EQ(text.completion_tokens(), 40);
  }
}

TEST(ChoiceText, StopStringEndsItAndItsTokensGiveNoLogprobs) {
  const Tokenizer tokenizer = chatting_tokenizer();
  const std::vector<int32_t> tokens = tokenizer.encode("abc STOP more", false);
  ChoiceText text(tokenizer, request_with({" ST"}));
  std::string all;
  size_t entries = 0;
  int64_t pushed = 0;
  for (const int32_t token : tokens) {
    if (text.ended()) break;
    text.push(token, TokenLogprobs{-1, {}}, false);
    ++pushed;
    all += text.take_text();
    for (const LogprobEntry& entry : text.take_logprobs()) {
      EXPECT_LT(entry.text_offset, 3);
      ++entries;
    }
    if (!text.ended()) {
      EXPECT_TRUE(std::string("abc").starts_with(all)) << "a part of the stop string was given out: " << all;
    }
  }
  EXPECT_EQ(all, "abc");
  EXPECT_EQ(text.finish_reason(), "stop");
  EXPECT_EQ(text.completion_tokens(), pushed);
  EXPECT_EQ(entries, tokenizer.encode("abc", false).size());
}

TEST(ChoiceText, StopTokenCountsAndIsNotShown) {
  const Tokenizer tokenizer = chatting_tokenizer();
  ChoiceText text(tokenizer, request_with({}));
  const int32_t a = tokenizer.encode("a", false).at(0);
  text.push(a, TokenLogprobs{-1, {}}, false);
  text.push(a, TokenLogprobs{-2, {}}, true);
  text.finish(FinishReason::stop);
  EXPECT_EQ(text.take_text(), "a");
  EXPECT_EQ(text.take_logprobs().size(), 1u);
  EXPECT_EQ(text.completion_tokens(), 2);
  EXPECT_EQ(text.finish_reason(), "stop");
}

TEST(ChoiceText, EchoPutsThePromptBeforeItAndShiftsOffsets) {
  const Tokenizer tokenizer = chatting_tokenizer();
  const std::vector<int32_t> prompt = tokenizer.encode("héllo", false), more = tokenizer.encode("xy", false);
  ApiRequest request = request_with({"ll"});  // stop strings are not looked for in the prompt
  request.logprobs = 0;
  ChoiceText text(tokenizer, request);
  std::vector<TokenLogprobs> rows(prompt.size() - 1, TokenLogprobs{-.5f, {}});
  text.echo("héllo", prompt, rows);
  for (const int32_t token : more) text.push(token, TokenLogprobs{-1, {}}, false);
  text.finish(FinishReason::length);
  EXPECT_EQ(text.take_text(), "hélloxy");
  const std::vector<LogprobEntry> entries = text.take_logprobs();
  ASSERT_EQ(entries.size(), prompt.size() + more.size());
  EXPECT_FALSE(entries[0].logprobs);
  EXPECT_EQ(entries[1].logprobs->chosen, -.5f);
  EXPECT_EQ(entries[prompt.size()].text_offset, 5);
  EXPECT_EQ(entries[prompt.size()].logprobs->chosen, -1);
}

TEST(ChoiceText, EchoOfOneTokenHasItsEntry) {
  const Tokenizer tokenizer = chatting_tokenizer();
  ApiRequest request = request_with({});
  request.logprobs = 0;
  ChoiceText text(tokenizer, request);
  text.echo("a", tokenizer.encode("a", false), {});
  text.finish(FinishReason::length);
  const std::vector<LogprobEntry> entries = text.take_logprobs();
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_FALSE(entries[0].logprobs);
}

TEST(ChoiceText, OffsetsOfAnEchoCountTheSpecialTokensThatItSpellsOut) {
  const Tokenizer tokenizer = chatting_tokenizer();
  const std::string special = tokenizer.id_to_token(*tokenizer.bos()), prompt = "a" + special + "a";
  std::vector<int32_t> tokens = tokenizer.encode(prompt, false);
  ASSERT_EQ(tokens.size(), 3u);
  tokens.insert(tokens.begin(), *tokenizer.bos());  // before the text, not in it
  ApiRequest request = request_with({});
  request.logprobs = 0;
  ChoiceText text(tokenizer, request);
  text.echo(prompt, tokens, std::vector<TokenLogprobs>(3));
  text.finish(FinishReason::length);
  const auto length = static_cast<int64_t>(special.size());
  std::vector<int64_t> offsets;
  for (const LogprobEntry& entry : text.take_logprobs()) offsets.push_back(entry.text_offset);
  EXPECT_EQ(offsets, (std::vector<int64_t>{0, 0, 1, 1 + length}));
}

TEST(Framing, BytesOfTokensMakeCharactersThatComeInSeveral) {
  const Tokenizer tokenizer = chatting_tokenizer();
  std::vector<LogprobEntry> entries;
  for (const int32_t token : tokenizer.encode("a 😀", false)) entries.push_back({token, TokenLogprobs{-1, {}}, 0});
  std::string bytes;
  const Json logprobs = logprobs_json(ApiKind::chat, tokenizer, entries);
  for (const Json& token : logprobs["content"]) {
    for (const Json& byte : token["bytes"]) bytes += static_cast<char>(byte.get<int>());
    EXPECT_TRUE(is_utf8(token["token"].get<std::string>()));
  }
  EXPECT_EQ(bytes, "a 😀");
}

TEST(Framing, EventsAndChunks) {
  EXPECT_EQ(sse_event("{}"), "data: {}\n\n");
  EXPECT_EQ(http_chunk("data: x\n\n"), "9\r\ndata: x\n\n\r\n");
  EXPECT_EQ(http_chunk(std::string(300, 'x')).substr(0, 5), "12c\r\n");
  EXPECT_EQ(http_chunk(""), "0\r\n\r\n");
  // A line break inside a text must not end an event.
  ChoicePart part;
  part.text = "a\n\nb\xff";
  const std::string event = sse_event(json_text(chunk_json({}, part, Json())));
  EXPECT_EQ(event.find("\n\n"), event.size() - 2);
  EXPECT_EQ(Json::parse(event.substr(6))["choices"][0]["text"], "a\n\nb\xEF\xBF\xBD");
}

TEST(Framing, RepliesHaveTheKeysOfTheApi) {
  const ReplyHead head{ApiKind::chat, "chatcmpl-1", "m", 5};
  ChoicePart part;
  part.text = "hi";
  part.finish_reason = "stop";
  part.first = true;
  const Json reply = reply_json(head, {part}, {3, 2});
  EXPECT_EQ(reply.dump(),
            R"({"id":"chatcmpl-1","object":"chat.completion","created":5,"model":"m","choices":[{"index":0,"message":)"
            R"({"role":"assistant","content":"hi","refusal":null},"logprobs":null,"finish_reason":"stop"}],)"
            R"("usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}})");
  EXPECT_EQ(chunk_json(head, part, Json())["choices"][0]["delta"].dump(), R"({"role":"assistant","content":"hi"})");
  part.first = false;
  part.text.clear();
  EXPECT_EQ(chunk_json(head, part, to_json(Usage{1, 1}))["choices"][0]["delta"].dump(), "{}");
  EXPECT_EQ(usage_chunk_json(head, {3, 2})["choices"].dump(), "[]");
  EXPECT_EQ(to_json(ApiError(429, "full", "", "queue_full")).dump(),
            R"({"error":{"message":"full","type":"rate_limit_error","param":null,"code":"queue_full"}})");
}

}  // namespace
}  // namespace qg
