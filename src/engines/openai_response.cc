#include "engines/openai_response.h"

#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <utility>

#include "core/error.h"

namespace qg {
namespace http = boost::beast::http;
using boost::system::error_code;

namespace {

constexpr uint32_t kMaxHeaderBytes = 64 << 10;
constexpr size_t kMaxPiece = size_t{256} << 10;  // one call of feed() never gives more than it was given

// A body that is taken out as it comes. Beast's string_body would reserve what Content-Length promises, and a server
// may promise anything.
struct PieceBody {
  using value_type = std::string;
  class reader {
   public:
    template <bool isRequest, class Fields>
    reader(http::header<isRequest, Fields>&, value_type& piece) : piece_(piece) {}
    template <class Length>
    void init(const Length&, error_code& error) {
      error = {};
    }
    template <class Buffers>
    size_t put(const Buffers& buffers, error_code& error) {
      size_t taken = 0;
      for (auto it = boost::asio::buffer_sequence_begin(buffers); it != boost::asio::buffer_sequence_end(buffers);
           ++it) {
        const boost::asio::const_buffer buffer(*it);
        piece_.append(static_cast<const char*>(buffer.data()), buffer.size());
        taken += buffer.size();
      }
      error = {};
      return taken;
    }
    void finish(error_code& error) { error = {}; }

   private:
    value_type& piece_;
  };
};

[[noreturn]] void refuse(const error_code& error) {
  if (error == http::error::partial_message || error == http::error::end_of_stream)
    throw Error("the answer was cut off");
  throw Error("not a sound HTTP answer: " + error.message());
}

}  // namespace

struct ResponseReader::State {
  http::response_parser<PieceBody> parser;
};

ResponseReader::ResponseReader() : state_(std::make_unique<State>()) {
  state_->parser.eager(true);
  state_->parser.header_limit(kMaxHeaderBytes);
  state_->parser.body_limit(boost::none);
}

ResponseReader::~ResponseReader() = default;
ResponseReader::ResponseReader(ResponseReader&&) noexcept = default;
ResponseReader& ResponseReader::operator=(ResponseReader&&) noexcept = default;

std::string ResponseReader::feed(std::string& bytes) {
  auto& parser = state_->parser;
  size_t used = 0;
  while (!parser.is_done() && used < bytes.size()) {
    error_code error;
    const size_t taken =
        parser.put(boost::asio::buffer(bytes.data() + used, std::min(bytes.size() - used, kMaxPiece)), error);
    used += taken;
    if (error == http::error::need_more) break;
    if (error) refuse(error);
    if (taken == 0) break;
  }
  bytes.erase(0, used);
  // What the parser cannot use yet is the beginning of a line of header or chunk; it is bounded here, too.
  if (!parser.is_done() && bytes.size() > kMaxHeaderBytes && used == 0) throw Error("a line of the answer never ends");
  return std::exchange(parser.get().body(), {});
}

void ResponseReader::feed_end() {
  error_code error;
  state_->parser.put_eof(error);
  if (error) refuse(error);
}

bool ResponseReader::has_header() const {
  return state_->parser.is_header_done();
}
bool ResponseReader::done() const {
  return state_->parser.is_done();
}
int ResponseReader::status() const {
  return static_cast<int>(state_->parser.get().result_int());
}
std::string ResponseReader::field(std::string_view name) const {
  return std::string(state_->parser.get()[boost::beast::string_view(name.data(), name.size())]);
}
bool ResponseReader::keep_alive() const {
  return state_->parser.keep_alive();
}

}  // namespace qg
