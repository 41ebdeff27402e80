// Any bytes of a connection: requests of HTTP are read or refused, the same whatever the parts they come in; a body is
// a sound request of the API, which keeps its limits, or refused with a status and a message.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"
#include "server/api_request.h"
#include "server/http_reader.h"

namespace {

void check_error(const qg::ApiError& error) {
  if (error.status < 400 || error.status > 599 || *error.what() == '\0') std::abort();
  const std::string text = qg::json_text(qg::to_json(error));
  if (text.empty() || text.size() > 4096) std::abort();
}

void check_body(const std::string& body) {
  for (const bool chat : {false, true}) {
    try {
      const qg::ApiRequest request = chat ? qg::parse_chat_request(body) : qg::parse_completion_request(body);
      const int64_t prompts = chat ? 1 : static_cast<int64_t>(request.prompts.size());
      if (request.n < 1 || prompts < 1 || prompts * request.n > qg::kMaxChoices) std::abort();
      if (!(request.sampling.temperature >= 0 && request.sampling.top_p > 0 && request.sampling.top_p <= 1))
        std::abort();
      if (request.sampling.top_k < 0 || request.logprobs.value_or(0) > qg::kMaxLogprobs) std::abort();
      for (const std::string& stop : request.stop)
        if (stop.empty()) std::abort();
    } catch (const qg::ApiError& error) {
      check_error(error);
    }
  }
}

// The requests in `bytes`, up to the first refusal. How early an unsound header is refused may depend on its parts,
// what is heard may not.
std::vector<std::string> hear(std::string_view bytes, size_t step, bool look_into) {
  qg::HttpLimits limits;
  limits.max_header_bytes = 4096;
  limits.max_body_bytes = 32768;
  std::vector<std::string> heard;
  std::string in;
  auto reader = std::make_unique<qg::HttpReader>(limits);
  try {
    for (size_t at = 0; at < bytes.size(); at += step) {
      in += bytes.substr(at, step);
      while (!in.empty() && reader->feed(in)) {
        const qg::HttpRequest request = reader->take();
        if (request.path.find_first_of("?#") != std::string::npos) std::abort();
        heard.push_back(request.method + " " + request.host + " " + request.path + "\n" + request.body);
        if (look_into) check_body(request.body);
        reader = std::make_unique<qg::HttpReader>(limits);
      }
    }
  } catch (const qg::ApiError& error) {
    check_error(error);
  }
  return heard;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  check_body(std::string(bytes));
  const std::vector<std::string> whole = hear(bytes, size + 1, true);
  // In parts it costs more: the header is looked through again for each.
  if (size <= 2000 && hear(bytes, 7, false) != whole) std::abort();
  return 0;
}
