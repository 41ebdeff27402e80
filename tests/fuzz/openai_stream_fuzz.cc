// Any bytes that a server may send: an HTTP answer is read or refused, its events and their meaning are the same
// whatever the parts they come in, and counts stay counts.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/error.h"
#include "engines/openai_request.h"
#include "engines/openai_response.h"
#include "engines/openai_sse.h"
#include "engines/openai_stream.h"

namespace {

constexpr size_t kMaxEvent = 4096;

struct Heard {
  std::string text;     // events, a line each
  std::string refusal;  // what ended it; empty at a sound end
};

// The events of a body in parts of `step` bytes, up to the first refusal.
Heard hear_events(std::string_view body, size_t step) {
  qg::SseParser sse(kMaxEvent);
  qg::CompletionStream stream;
  Heard heard;
  int64_t sum = 0;
  try {
    for (size_t at = 0; at < body.size(); at += step) {
      sse.feed(body.substr(at, step), [&](std::string_view data) {
        if (data.size() > kMaxEvent) std::abort();
        heard.text.append(data).push_back('\n');
        const int64_t tokens = stream.take(data);
        if (tokens < 0 || tokens > int64_t{1} << 30) std::abort();
        sum += tokens;
      });
      if (sse.pending_bytes() > kMaxEvent) std::abort();
    }
  } catch (const qg::Error& error) {
    heard.refusal = error.problem();
    if (heard.refusal.empty() || heard.refusal.size() > 4096) std::abort();
  }
  if (sum != stream.counted()) std::abort();
  if (stream.completion_tokens() && *stream.completion_tokens() < 0) std::abort();
  return heard;
}

// The body of an answer in parts; `whole` tells whether it was read to its end.
std::string hear_answer(std::string_view bytes, size_t step, bool& whole) {
  qg::ResponseReader reader;
  std::string in, body;
  whole = false;
  try {
    for (size_t at = 0; at < bytes.size() && !reader.done(); at += step) {
      in += bytes.substr(at, step);
      body += reader.feed(in);
    }
    if (!reader.done() && reader.has_header()) reader.feed_end();
    whole = reader.done();
    if (whole && (reader.status() < 0 || reader.field("Content-Type").size() > bytes.size())) std::abort();
  } catch (const qg::Error& error) {
    if (error.problem().empty()) std::abort();
  }
  return body;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const Heard once = hear_events(bytes, size + 1);
  for (const size_t step : {size_t{1}, size_t{5}}) {
    const Heard parts = hear_events(bytes, step);
    // How much of an event that is too long is seen first depends on the parts; what was heard does not.
    if (parts.text != once.text || parts.refusal.empty() != once.refusal.empty()) std::abort();
  }
  if (qg::error_message(bytes).size() > 4096) std::abort();
  qg::RequestDialect dialect;
  for (int i = 0; !qg::leave_out_refused(dialect, bytes).empty(); ++i)
    if (i > 8) std::abort();
  bool whole = false, whole_in_parts = false;
  const std::string body = hear_answer(bytes, size + 1, whole);
  if (whole) hear_events(body, 3);
  if (size <= 2000) {
    const std::string again = hear_answer(bytes, 7, whole_in_parts);
    if (whole && (!whole_in_parts || again != body)) std::abort();
  }
  return 0;
}
