#pragma once
// Bytes of a connection to one HTTP/1.1 response, piece by piece: Boost.Beast's parser fed by hand, with limits. No
// sockets here, so that a fuzzer reaches all of it.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace qg {

class ResponseReader {
 public:
  ResponseReader();
  ~ResponseReader();
  ResponseReader(ResponseReader&&) noexcept;
  ResponseReader& operator=(ResponseReader&&) noexcept;

  // Takes what belongs to this response from the front of `bytes` and returns the body that came with it. Throws Error
  // on what is no HTTP response, and on a header of more than 64 KiB.
  std::string feed(std::string& bytes);
  // The server has closed: a response without a length ends here. Throws Error when it is cut off.
  void feed_end();

  bool has_header() const;
  bool done() const;
  // Once has_header():
  int status() const;
  std::string field(std::string_view name) const;  // empty when it is not there
  bool keep_alive() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qg
