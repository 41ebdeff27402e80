// SipHash-2-4-128 against OpenSSL's.
#include "runtime/page_hash.h"

#include <gtest/gtest.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>

#include <array>
#include <cstring>
#include <vector>

#include "core/rng.h"

namespace qg {
namespace {

PageHash openssl_siphash(const std::vector<uint64_t>& words, std::array<uint64_t, 2> key) {
  EVP_MAC* mac = EVP_MAC_fetch(nullptr, "SIPHASH", nullptr);
  EVP_MAC_CTX* context = EVP_MAC_CTX_new(mac);
  size_t size = 16;
  const OSSL_PARAM params[] = {OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size), OSSL_PARAM_construct_end()};
  EXPECT_EQ(EVP_MAC_init(context, reinterpret_cast<const unsigned char*>(key.data()), 16, params), 1);
  EVP_MAC_update(context, reinterpret_cast<const unsigned char*>(words.data()), 8 * words.size());
  std::array<unsigned char, 16> bytes{};
  size_t written = 0;
  EXPECT_EQ(EVP_MAC_final(context, bytes.data(), &written, bytes.size()), 1);
  EXPECT_EQ(written, 16u);
  EVP_MAC_CTX_free(context);
  EVP_MAC_free(mac);
  PageHash hash;
  std::memcpy(&hash.low, bytes.data(), 8);
  std::memcpy(&hash.high, bytes.data() + 8, 8);
  return hash;
}

TEST(PageHash, IsSipHash) {
  Rng rng(1);
  for (size_t length = 0; length < 40; ++length) {
    std::vector<uint64_t> words(length);
    for (uint64_t& word : words) word = rng.next_bits();
    const std::array<uint64_t, 2> key{rng.next_bits(), rng.next_bits()};
    EXPECT_EQ(siphash128(words, key[0], key[1]), openssl_siphash(words, key)) << length;
  }
}

TEST(PageHash, ChainCoversTokensAndAllBefore) {
  const PageHasher hasher(5, 6);
  const std::vector<int32_t> a{1, 2, 3, 4}, b{1, 2, 3, 5}, odd{7, 8, -1};
  EXPECT_EQ(hasher.next({}, a), hasher.next({}, a));
  EXPECT_NE(hasher.next({}, a), hasher.next({}, b));
  EXPECT_NE(hasher.next(hasher.next({}, a), a), hasher.next(hasher.next({}, b), a));
  EXPECT_NE(hasher.next(hasher.next({}, a), a), hasher.next({}, a));
  EXPECT_NE(PageHasher(5, 7).next({}, a), hasher.next({}, a));
  // Two tokens lie in one word: -1 must not run into its neighbour, and the odd one at the end counts.
  const uint64_t low = 8ull << 32 | 7, high = 0xffffffffull;
  const std::vector<uint64_t> expected{0, 0, low, high};
  const std::vector<int32_t> padded{7, 8, -1, 0};
  EXPECT_EQ(hasher.next({}, padded), siphash128(expected, 5, 6));
  EXPECT_NE(hasher.next({}, odd), hasher.next({}, padded));
}

TEST(PageHash, EveryHasherHasItsOwnKey) {
  const std::vector<int32_t> tokens{1, 2, 3, 4};
  EXPECT_NE(PageHasher().next({}, tokens), PageHasher().next({}, tokens));
}

}  // namespace
}  // namespace qg
