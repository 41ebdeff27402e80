// The body of a request: every field's type and range, and what is refused by name.
#include "server/api_request.h"

#include <gtest/gtest.h>

#include <cfloat>

#include "server/api_error.h"
#include "server/prepare.h"
#include "tests/server/running_server.h"

namespace qg {
namespace {

std::string completion_with(const std::string& more) {
  return R"({"model": "m", "prompt": "p")" + (more.empty() ? "" : ", " + more) + "}";
}
std::string chat_with(const std::string& more) {
  return R"({"model": "m", "messages": [{"role": "user", "content": "hi"}])" + (more.empty() ? "" : ", " + more) + "}";
}

ApiError refusal(ApiKind kind, const std::string& body) {
  try {
    kind == ApiKind::chat ? parse_chat_request(body) : parse_completion_request(body);
  } catch (const ApiError& e) {
    return e;
  }
  return {200, "it was accepted: " + body};
}

struct Bad {
  ApiKind kind;
  std::string more;   // fields beside the required ones
  std::string param;  // that the error must name
};

TEST(Request, WrongTypesAndRangesNameTheField) {
  constexpr ApiKind kText = ApiKind::completion, kChat = ApiKind::chat;
  const std::vector<Bad> all = {
      {kText, R"("n": 0)", "n"},
      {kText, R"("n": 129)", "n"},
      {kText, R"("n": 1.5)", "n"},
      {kText, R"("n": "2")", "n"},
      {kText, R"("n": true)", "n"},
      {kText, R"("prompt": 3)", "prompt"},
      {kText, R"("prompt": [])", "prompt"},
      {kText, R"("prompt": null)", "prompt"},
      {kText, R"("prompt": {})", "prompt"},
      {kText, R"("prompt": [1, "a"])", "prompt"},
      {kText, R"("prompt": ["a", 1])", "prompt"},
      {kText, R"("prompt": [1, -1])", "prompt"},
      {kText, R"("prompt": [1, 2147483648])", "prompt"},
      {kText, R"("prompt": [[1], [1.5]])", "prompt"},
      {kText, R"("prompt": [[[1]]])", "prompt"},
      {kText, R"("prompt": ["a", "b"], "n": 65)", "n"},
      {kText, R"("model": 3)", "model"},
      {kText, R"("model": null)", "model"},
      {kText, R"("max_tokens": -1)", "max_tokens"},
      {kText, R"("max_tokens": 1e3)", "max_tokens"},
      {kText, R"("max_tokens": 18446744073709551615)", "max_tokens"},
      {kText, R"("max_tokens": 99999999999999999999999)", "max_tokens"},
      {kText, R"("temperature": -0.1)", "temperature"},
      {kText, R"("temperature": 101)", "temperature"},
      {kText, R"("temperature": "1")", "temperature"},
      {kText, R"("temperature": [1])", "temperature"},
      {kText, R"("top_p": 1.01)", "top_p"},
      {kText, R"("top_p": -1)", "top_p"},
      {kText, R"("top_k": -2)", "top_k"},
      {kText, R"("top_k": 2147483648)", "top_k"},
      {kText, R"("top_k": 1.0)", "top_k"},
      {kText, R"("seed": "x")", "seed"},
      {kText, R"("seed": 1.5)", "seed"},
      {kText, R"("stop": 3)", "stop"},
      {kText, R"("stop": "")", "stop"},
      {kText, R"("stop": ["a", 3])", "stop"},
      {kText, R"("stop": ["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])", "stop"},
      {kText, R"("stop": ")" + std::string(1025, 'x') + "\"", "stop"},
      {kText, R"("stop_token_ids": 3)", "stop_token_ids"},
      {kText, R"("stop_token_ids": [-3])", "stop_token_ids"},
      {kText, R"("logprobs": 21)", "logprobs"},
      {kText, R"("logprobs": true)", "logprobs"},
      {kText, R"("echo": 1)", "echo"},
      {kText, R"("stream": "yes")", "stream"},
      {kText, R"("ignore_eos": 1)", "ignore_eos"},
      {kText, R"("skip_special_tokens": 0)", "skip_special_tokens"},
      {kText, R"("include_stop_str_in_output": 0)", "include_stop_str_in_output"},
      {kText, R"("stream_options": {"include_usage": true})", "stream_options"},
      {kText, R"("stream": true, "stream_options": 1)", "stream_options"},
      {kText, R"("stream": true, "stream_options": {"include_usage": 1})", "stream_options.include_usage"},
      {kText, R"("stream": true, "stream_options": {"x": 1})", "stream_options.x"},
      {kText, R"("frequency_penalty": 0.5)", "frequency_penalty"},
      {kText, R"("presence_penalty": 0.5)", "presence_penalty"},
      {kText, R"("repetition_penalty": 1.1)", "repetition_penalty"},
      {kText, R"("min_p": 0.1)", "min_p"},
      {kText, R"("logit_bias": {"5": 1})", "logit_bias"},
      {kText, R"("min_tokens": 3)", "min_tokens"},
      {kText, R"("best_of": 2)", "best_of"},
      {kText, R"("suffix": "end")", "suffix"},
      {kText, R"("temprature": 1)", "temprature"},
      {kText, R"("messages": [])", "messages"},
      {kChat, R"("messages": [])", "messages"},
      {kChat, R"("messages": "hi")", "messages"},
      {kChat, R"("messages": [3])", "messages[0]"},
      {kChat, R"("messages": [{"role": "tool", "content": "x"}])", "messages[0].role"},
      {kChat, R"("messages": [{"content": "x"}])", "messages[0].role"},
      {kChat, R"("messages": [{"role": "user"}])", "messages[0].content"},
      {kChat, R"("messages": [{"role": "user", "content": 3}])", "messages[0].content"},
      {kChat, R"("messages": [{"role": "user", "content": [{"type": "image_url"}]}])", "messages[0].content"},
      {kChat, R"("messages": [{"role": "user", "content": "x", "color": 1}])", "messages[0].color"},
      {kChat, R"("messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}])", "messages[0].tool_calls"},
      {kChat, R"("max_tokens": 0)", "max_tokens"},
      {kChat, R"("max_completion_tokens": 0)", "max_completion_tokens"},
      {kChat, R"("max_tokens": 3, "max_completion_tokens": 4)", "max_tokens"},
      {kChat, R"("logprobs": 3)", "logprobs"},
      {kChat, R"("top_logprobs": 3)", "top_logprobs"},
      {kChat, R"("logprobs": true, "top_logprobs": 21)", "top_logprobs"},
      {kChat, R"("tools": [{}])", "tools"},
      {kChat, R"("response_format": {"type": "json_object"})", "response_format"},
      {kChat, R"("prompt": "x")", "prompt"},
  };
  for (const Bad& bad : all) {
    const ApiError error = refusal(bad.kind, bad.kind == kChat ? chat_with(bad.more) : completion_with(bad.more));
    EXPECT_EQ(error.status, 400) << bad.more << ": " << error.what();
    EXPECT_EQ(error.param, bad.param) << bad.more << ": " << error.what();
    EXPECT_NE(std::string(error.what()).find(bad.param.substr(0, bad.param.find('['))), std::string::npos)
        << bad.more << ": " << error.what();
    EXPECT_LT(std::string(error.what()).size(), 300u) << bad.more;
  }
}

TEST(Request, WhatIsNoRequestAtAll) {
  const std::string deep(100000, '[');
  for (const std::string& body :
       {std::string(), std::string("{"), std::string("[]"), std::string("null"), std::string("3"), std::string("\"x\""),
        deep, std::string("{\"model\": NaN}"), std::string("{\"model\": 1e999}"), std::string("{\"a\": \"\xff\"}"),
        std::string("{\"a\": \"\\ud800\"}"), std::string("{} {}"), std::string(1, '\0')})
    for (const ApiKind kind : {ApiKind::completion, ApiKind::chat})
      EXPECT_EQ(refusal(kind, body).status, 400) << body.substr(0, 40);
}

TEST(Request, Defaults) {
  const ApiRequest text = parse_completion_request(completion_with(""));
  EXPECT_EQ(std::get<std::string>(text.prompts.at(0)), "p");
  EXPECT_EQ(text.n, 1);
  EXPECT_FALSE(text.max_tokens);
  EXPECT_EQ(text.sampling.temperature, 1);
  EXPECT_EQ(text.sampling.top_p, 1);
  EXPECT_EQ(text.sampling.top_k, 0);
  EXPECT_FALSE(text.seed || text.logprobs || text.stream || text.echo || text.ignore_eos || text.include_stop);
  EXPECT_TRUE(text.skip_special_tokens);
  const ApiRequest chat = parse_chat_request(chat_with(""));
  EXPECT_EQ(chat.messages.at(0).content, "hi");
  EXPECT_FALSE(chat.max_tokens || chat.logprobs || chat.stream);
}

TEST(Request, EveryFieldArrives) {
  const ApiRequest text = parse_completion_request(completion_with(
      R"("n": 3, "max_tokens": 7, "temperature": 0.5, "top_p": 0.25, "top_k": 40, "seed": -1, "stop": ["a", "b"],
         "stop_token_ids": [4], "include_stop_str_in_output": true, "ignore_eos": true, "skip_special_tokens": false,
         "echo": true, "logprobs": 5, "stream": true, "best_of": 3, "logit_bias": {}, "suffix": null, "user": "me",
         "stream_options": {"include_usage": true, "continuous_usage_stats": true}, "frequency_penalty": 0.0)"));
  EXPECT_EQ(text.n, 3);
  EXPECT_EQ(text.max_tokens, 7);
  EXPECT_EQ(text.sampling.temperature, .5f);
  EXPECT_EQ(text.sampling.top_p, .25f);
  EXPECT_EQ(text.sampling.top_k, 40);
  EXPECT_EQ(text.seed, UINT64_MAX);
  EXPECT_EQ(text.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(text.stop_token_ids, std::vector<int32_t>{4});
  EXPECT_TRUE(text.include_stop && text.ignore_eos && text.echo && text.stream && text.include_usage &&
              text.continuous_usage);
  EXPECT_FALSE(text.skip_special_tokens);
  EXPECT_EQ(text.logprobs, 5);

  const ApiRequest chat = parse_chat_request(
      R"({"model": "m", "messages": [{"role": "developer", "content": [{"type": "text", "text": "a"},
          {"type": "text", "text": "b"}], "name": "x"}, {"role": "user", "content": ""}], "max_completion_tokens": 9,
          "logprobs": true, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}})");
  EXPECT_EQ(chat.messages.at(0).role, "system");
  EXPECT_EQ(chat.messages.at(0).content, "ab");
  EXPECT_EQ(chat.max_tokens, 9);
  EXPECT_EQ(chat.logprobs, 0);
}

TEST(Request, NullsCountAsAbsentAndSmallestSharesStaySound) {
  const ApiRequest text = parse_completion_request(
      completion_with(R"("n": null, "stop": null, "logprobs": null, "stream_options": null, "top_p": 0, "top_k": -1)"));
  EXPECT_EQ(text.n, 1);
  EXPECT_EQ(text.sampling.top_p, FLT_MIN);
  EXPECT_EQ(text.sampling.top_k, 0);
  EXPECT_GT(parse_completion_request(completion_with(R"("top_p": 1e-60)")).sampling.top_p, 0);
}

TEST(Request, PromptsOfEveryForm) {
  const auto prompts = [](const std::string& prompt) {
    return parse_completion_request(R"({"model": "m", "prompt": )" + prompt + "}").prompts;
  };
  EXPECT_EQ(std::get<1>(prompts("[1, 2]").at(0)), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(std::get<0>(prompts(R"(["a", "b"])").at(1)), "b");
  EXPECT_EQ(std::get<1>(prompts("[[1], [2, 3]]").at(1)), (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(prompts(R"([[1], "b"])").size(), 2u);
}

TEST(Request, ManyKeysAreReadQuickly) {
  std::string body = completion_with("");
  body.pop_back();
  for (int i = 0; i < 200000; ++i) body += ", \"k" + std::to_string(i) + "\": 0";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(refusal(ApiKind::completion, body + "}").status, 400);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5 * kSlowdown));
}

ServedModel served(int64_t max_tokens = 64) {
  return {"m", chatting_tokenizer(), 331, max_tokens, max_tokens, 0};
}

int status_of(ApiKind kind, const std::string& body, std::string* param = nullptr) {
  try {
    prepare(kind, body, served());
  } catch (const ApiError& e) {
    if (param) *param = e.param;
    return e.status;
  }
  return 200;
}

TEST(Prepare, HoldsRequestsAgainstTheModel) {
  std::string param;
  EXPECT_EQ(status_of(ApiKind::completion, R"({"model": "other", "prompt": "x"})", &param), 404);
  EXPECT_EQ(param, "model");
  EXPECT_EQ(status_of(ApiKind::completion, R"({"model": "m", "prompt": ""})", &param), 400);
  EXPECT_EQ(param, "prompt");
  EXPECT_EQ(status_of(ApiKind::completion, R"({"model": "m", "prompt": [330]})"), 200);
  EXPECT_EQ(status_of(ApiKind::completion, R"({"model": "m", "prompt": [331]})", &param), 400);
  EXPECT_EQ(param, "prompt");
  EXPECT_EQ(status_of(ApiKind::completion, R"({"model": "m", "prompt": [1], "stop_token_ids": [331]})", &param), 400);
  EXPECT_EQ(param, "stop_token_ids");
  EXPECT_EQ(status_of(ApiKind::completion, R"({"model": "m", "prompt": [1], "max_tokens": 63})"), 200);
  EXPECT_EQ(status_of(ApiKind::completion, R"({"model": "m", "prompt": [1], "max_tokens": 64})", &param), 400);
  EXPECT_EQ(param, "max_tokens");
  const std::string longer = Json(std::vector<int>(65, 5)).dump();
  EXPECT_EQ(status_of(ApiKind::completion, R"({"model": "m", "prompt": )" + longer + "}", &param), 400);
  EXPECT_EQ(param, "prompt");
  EXPECT_EQ(status_of(ApiKind::completion, R"({"model": "m", "prompt": ")" + std::string(1 << 20, 'a') + "\"}"), 400);
}

TEST(Prepare, ChatUsesTheModelsTemplateAndTheRestOfItsLength) {
  const PreparedRequest request =
      prepare(ApiKind::chat, R"({"model": "m", "messages": [{"role": "user", "content": "a"}]})", served());
  EXPECT_EQ(request.prompts.at(0).tokens,
            chatting_tokenizer().encode(
                render_chat(chatting_tokenizer(), std::vector<ChatMessage>{{"user", "a"}}, true), false));
  EXPECT_EQ(request.max_tokens, 64 - static_cast<int64_t>(request.prompts.at(0).tokens.size()));
  std::string param;
  EXPECT_EQ(status_of(ApiKind::chat, R"({"model": "m", "messages": [{"role": "assistant", "content": "a"}]})", &param),
            400);
  EXPECT_EQ(param, "messages");
}

}  // namespace
}  // namespace qg
