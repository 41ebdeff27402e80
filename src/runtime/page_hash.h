#pragma once
// Names for the content of KV pages: the hash of a page's tokens and of the page before it, so that equal hashes mean
// equal tokens from the beginning of the sequence on.
#include <cstdint>
#include <span>

namespace qg {

struct PageHash {
  uint64_t low = 0, high = 0;
  bool operator==(const PageHash&) const = default;
};

// SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012): a keyed function, so that whoever sends prompts
// cannot make two different prefixes look equal. Input: 64-bit words.
PageHash siphash128(std::span<const uint64_t> words, uint64_t key_low, uint64_t key_high);

class PageHasher {
 public:
  PageHasher();  // a key of its own, random
  PageHasher(uint64_t key_low, uint64_t key_high) : key_low_(key_low), key_high_(key_high) {}

  // previous: the hash of the page before, or PageHash{} for the first page. tokens: [page_tokens].
  PageHash next(const PageHash& previous, std::span<const int32_t> tokens) const;

 private:
  uint64_t key_low_, key_high_;
};

}  // namespace qg
