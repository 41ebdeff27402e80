#include "runtime/page_hash.h"

#include <bit>
#include <random>

namespace qg {
namespace {

class Sip {
 public:
  Sip(uint64_t key_low, uint64_t key_high)
      : v0_(key_low ^ 0x736f6d6570736575ull),
        v1_(key_high ^ 0x646f72616e646f6dull ^ 0xee),  // 0xee, here and at the end: the 128-bit variant
        v2_(key_low ^ 0x6c7967656e657261ull),
        v3_(key_high ^ 0x7465646279746573ull) {}

  void word(uint64_t m) {
    v3_ ^= m;
    rounds(2);
    v0_ ^= m;
  }

  PageHash end() {
    v2_ ^= 0xee;
    rounds(4);
    PageHash hash;
    hash.low = v0_ ^ v1_ ^ v2_ ^ v3_;
    v1_ ^= 0xdd;
    rounds(4);
    hash.high = v0_ ^ v1_ ^ v2_ ^ v3_;
    return hash;
  }

 private:
  void rounds(int count) {
    for (int i = 0; i < count; ++i) {
      v0_ += v1_;
      v2_ += v3_;
      v1_ = std::rotl(v1_, 13) ^ v0_;
      v3_ = std::rotl(v3_, 16) ^ v2_;
      v0_ = std::rotl(v0_, 32);
      v2_ += v1_;
      v0_ += v3_;
      v1_ = std::rotl(v1_, 17) ^ v2_;
      v3_ = std::rotl(v3_, 21) ^ v0_;
      v2_ = std::rotl(v2_, 32);
    }
  }

  uint64_t v0_, v1_, v2_, v3_;
};

// The last word of a SipHash input: its length in bytes, modulo 256, in the top byte.
uint64_t length_word(uint64_t bytes) {
  return bytes << 56;
}

uint64_t random_word() {
  std::random_device source;
  return uint64_t{source()} << 32 | source();
}

}  // namespace

PageHash siphash128(std::span<const uint64_t> words, uint64_t key_low, uint64_t key_high) {
  Sip sip(key_low, key_high);
  for (const uint64_t word : words) sip.word(word);
  sip.word(length_word(8 * words.size()));
  return sip.end();
}

PageHasher::PageHasher() : PageHasher(random_word(), random_word()) {}

PageHash PageHasher::next(const PageHash& previous, std::span<const int32_t> tokens) const {
  Sip sip(key_low_, key_high_);
  sip.word(previous.low);
  sip.word(previous.high);
  for (size_t i = 0; i < tokens.size(); i += 2) {
    const uint64_t second = i + 1 < tokens.size() ? static_cast<uint32_t>(tokens[i + 1]) : 0;
    sip.word(second << 32 | static_cast<uint32_t>(tokens[i]));
  }
  sip.word(length_word(16 + 4 * tokens.size()));
  return sip.end();
}

}  // namespace qg
