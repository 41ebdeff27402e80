#pragma once
// The KV pool's pages: who refers to which, which are free, and which still hold a prefix that a later sequence may
// reuse. Every operation takes constant time and allocates nothing.
//
// A page is written by one sequence until it is full, and never again: only full pages are published, a sequence that
// reuses pages goes on in pages of its own behind them. So no page needs copying before it is written.
#include <cstdint>
#include <vector>

#include "runtime/page_hash.h"

namespace qg {

class KvPages {
 public:
  explicit KvPages(int64_t num_pages);

  int64_t total() const { return static_cast<int64_t>(pages_.size()) - 1; }
  int64_t available() const { return available_; }  // pages that nobody refers to, published ones included
  int64_t used() const { return total() - available_; }
  int64_t cached() const { return cached_; }  // published pages that nobody refers to
  int32_t references(int32_t page) const { return pages_[page].references; }

  // A page with one reference; available() must be > 0. Pages without a use come first, then the published page whose
  // last user left longest ago, which is forgotten.
  int32_t take();
  void share(int32_t page);    // one reference more; the page may be one that nobody refers to
  void release(int32_t page);  // one reference less. Of one sequence, the last page first: a prefix outlives its ends

  // The content of a full page, that somebody refers to, is known by this hash from now on. When another page has the
  // same content already, this one stays unpublished.
  void publish(int32_t page, const PageHash& hash);
  int32_t find(const PageHash& hash) const;  // -1: no published page has it
  void unpublish(int32_t page);              // one that somebody refers to: nobody finds it any more

 private:
  struct Page {
    PageHash hash;
    int32_t references = 0;
    int32_t previous = -1, next = -1;  // neighbours in the list of available pages
    int32_t next_in_bucket = -1;
    bool published = false;
  };

  int32_t end() const { return static_cast<int32_t>(pages_.size()) - 1; }  // the list's head and tail in one
  void link_before(int32_t page, int32_t place);
  void unlink(int32_t page);
  int32_t& bucket(const PageHash& hash) { return buckets_[hash.low & (buckets_.size() - 1)]; }
  void forget(int32_t page);

  // The last entry is no page but both ends of the list of available pages, which are in the order of being taken.
  std::vector<Page> pages_;
  std::vector<int32_t> buckets_;  // first published page of each bucket, -1: none; a power of two
  int64_t available_ = 0, cached_ = 0;
};

}  // namespace qg
