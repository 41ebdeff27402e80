#pragma once
// A step's pieces over a paged cache, on the host and on the device: pages in random order, every byte that no query
// may use poisoned.
#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/attention/cuda_batch.h"
#include "kernels/attention/params.h"
#include "kernels/kvcache/run.h"
#include "tests/gpu/device_vector.h"

namespace qg::testing {

struct StepPiece {
  int64_t num_tokens = 0, kv_tokens = 0;  // new ones; all, new ones included
};

// Random numbers in [0, 2^32) from a counter.
inline uint32_t mixed(uint64_t x) {
  x = (x + 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>((x ^ (x >> 31)) >> 32);
}

class PagedBatch {
 public:
  PagedBatch(const KvLayout& layout, std::vector<StepPiece> pieces, int64_t spare_pages_per_piece = 2)
      : layout_(layout), pieces_(std::move(pieces)) {
    for (const StepPiece& p : pieces_) {
      first_row_.push_back(static_cast<int32_t>(rows_));
      num_tokens_.push_back(static_cast<int32_t>(p.num_tokens));
      kv_tokens_.push_back(static_cast<int32_t>(p.kv_tokens));
      for (int64_t i = 0; i < p.num_tokens; ++i) {
        row_piece_.push_back(static_cast<int32_t>(first_row_.size()) - 1);
        row_position_.push_back(static_cast<int32_t>(p.kv_tokens - p.num_tokens + i));
      }
      rows_ += p.num_tokens;
      max_pages_ = std::max(max_pages_, pages_of(p) + spare_pages_per_piece);
      num_pages_ += pages_of(p);
    }
    num_pages_ += 1;  // page 0 belongs to nobody
    std::vector<int32_t> numbers(static_cast<size_t>(num_pages_ - 1));
    std::iota(numbers.begin(), numbers.end(), 1);
    for (size_t i = numbers.size(); i > 1; --i) std::swap(numbers[i - 1], numbers[mixed(i) % i]);
    // Entries behind a piece's last page point far outside of the pool: reading them shows.
    table_.assign(pieces_.size() * static_cast<size_t>(max_pages_), 1 << 28);
    size_t next = 0;
    for (size_t i = 0; i < pieces_.size(); ++i)
      for (int64_t page = 0; page < pages_of(pieces_[i]); ++page)
        table_[i * static_cast<size_t>(max_pages_) + static_cast<size_t>(page)] = numbers[next++];
    pool_.assign(static_cast<size_t>(num_pages_ * layout_.page_bytes()), std::byte{kPoison});
  }

  // Random K and V. With a window, the tokens before it hold large numbers: the reference multiplies them by zero, so
  // they may not be poison, but who uses one is far off.
  void fill(KvScale scale, int64_t window, float deviation) {
    const int64_t d = layout_.head_dim;
    for (size_t i = 0; i < pieces_.size(); ++i) {
      const int64_t first = std::max<int64_t>(0, pieces_[i].kv_tokens - pieces_[i].num_tokens + 1 - window);
      for (int64_t which = 0; which < 2; ++which) {
        std::vector<float> x = normal_values(static_cast<size_t>(pieces_[i].kv_tokens * layout_.kv_heads * d),
                                             7 * i + 3 + which, deviation);
        std::fill_n(x.begin(), first * layout_.kv_heads * d, 20 * deviation);
        for (int64_t t = 0; t < pieces_[i].kv_tokens; ++t)
          for (int64_t head = 0; head < layout_.kv_heads; ++head)
            kv_encode(layout_.format, which == 0 ? scale.k : scale.v, x.data() + (t * layout_.kv_heads + head) * d,
                      pool_.data() + offset(i, which, head, t), d);
      }
    }
  }

  int64_t offset(size_t piece, int64_t which, int64_t head, int64_t token) const {
    return layout_.offset(pages(piece)[static_cast<size_t>(token / layout_.page_tokens)], static_cast<int>(which), head,
                          token % layout_.page_tokens);
  }
  std::span<const int32_t> pages(size_t piece) const {
    return {table_.data() + piece * static_cast<size_t>(max_pages_), static_cast<size_t>(pages_of(pieces_[piece]))};
  }

  std::vector<AttentionPiece> attention_pieces() const {
    std::vector<AttentionPiece> out;
    for (size_t i = 0; i < pieces_.size(); ++i)
      out.push_back({first_row_[i], pieces_[i].num_tokens, pieces_[i].kv_tokens - pieces_[i].num_tokens, pages(i)});
    return out;
  }
  std::vector<KvAppendPiece> append_pieces() const {
    std::vector<KvAppendPiece> out;
    for (const AttentionPiece& p : attention_pieces())
      out.push_back({p.first_row, p.num_tokens, p.context_tokens, p.pages});
    return out;
  }

  const KvLayout& layout() const { return layout_; }
  const std::vector<StepPiece>& pieces() const { return pieces_; }
  int64_t rows() const { return rows_; }
  int64_t max_pages() const { return max_pages_; }
  const std::vector<int32_t>& first_row() const { return first_row_; }
  const std::vector<int32_t>& row_piece() const { return row_piece_; }
  const std::vector<int32_t>& row_position() const { return row_position_; }
  std::vector<std::byte>& pool() { return pool_; }
  const std::vector<std::byte>& pool() const { return pool_; }

 private:
  friend class DeviceBatch;
  int64_t pages_of(const StepPiece& p) const { return (p.kv_tokens + layout_.page_tokens - 1) / layout_.page_tokens; }

  KvLayout layout_;
  std::vector<StepPiece> pieces_;
  int64_t rows_ = 0, max_pages_ = 0, num_pages_ = 0;
  std::vector<int32_t> first_row_, num_tokens_, kv_tokens_, table_, row_piece_, row_position_;
  std::vector<std::byte> pool_;
};

class DeviceBatch {
 public:
  explicit DeviceBatch(const PagedBatch& b)
      : first_row_(b.first_row_),
        num_tokens_(b.num_tokens_),
        kv_tokens_(b.kv_tokens_),
        table_(b.table_),
        row_piece_(b.row_piece_),
        row_position_(b.row_position_),
        pool_(b.pool_),
        max_pages_(static_cast<int32_t>(b.max_pages_)) {}

  CudaBatch view() const {
    return {first_row_.data(), num_tokens_.data(),   kv_tokens_.data(), table_.data(),
            row_piece_.data(), row_position_.data(), max_pages_};
  }
  std::byte* pool() const { return pool_.data(); }
  std::vector<std::byte> read_pool() const { return pool_.read(); }

 private:
  DeviceVector<int32_t> first_row_, num_tokens_, kv_tokens_, table_, row_piece_, row_position_;
  DeviceVector<std::byte> pool_;
  int32_t max_pages_;
};

}  // namespace qg::testing
