#include "runtime/kv_pages.h"

#include <bit>
#include <limits>
#include <string>

#include "core/error.h"

namespace qg {

KvPages::KvPages(int64_t num_pages) {
  if (num_pages < 1 || num_pages >= std::numeric_limits<int32_t>::max())
    throw Error("the KV pool has " + std::to_string(num_pages) + " pages", "KV pages", "give it more memory",
                ExitCode::cannot_here);
  pages_.resize(num_pages + 1);
  buckets_.assign(std::bit_ceil(static_cast<size_t>(2 * num_pages)), -1);
  pages_[end()].previous = pages_[end()].next = end();
  for (int32_t page = 0; page < num_pages; ++page) link_before(page, end());
}

int32_t KvPages::take() {
  const int32_t page = pages_[end()].next;
  unlink(page);
  if (pages_[page].published) {
    forget(page);
    --cached_;
  }
  pages_[page].references = 1;
  return page;
}

void KvPages::share(int32_t page) {
  if (pages_[page].references++ > 0) return;
  unlink(page);
  --cached_;  // only a published page can be found without a reference to it
}

void KvPages::release(int32_t page) {
  if (--pages_[page].references > 0) return;
  if (pages_[page].published) {
    link_before(page, end());
    ++cached_;
  } else {
    link_before(page, pages_[end()].next);
  }
}

void KvPages::publish(int32_t page, const PageHash& hash) {
  if (pages_[page].published || find(hash) >= 0) return;
  pages_[page].published = true;
  pages_[page].hash = hash;
  pages_[page].next_in_bucket = bucket(hash);
  bucket(hash) = page;
}

int32_t KvPages::find(const PageHash& hash) const {
  int32_t page = buckets_[hash.low & (buckets_.size() - 1)];
  while (page >= 0 && !(pages_[page].hash == hash)) page = pages_[page].next_in_bucket;
  return page;
}

void KvPages::unpublish(int32_t page) {
  if (pages_[page].published) forget(page);
}

void KvPages::link_before(int32_t page, int32_t place) {
  const int32_t previous = pages_[place].previous;
  pages_[page].previous = previous;
  pages_[page].next = place;
  pages_[previous].next = page;
  pages_[place].previous = page;
  ++available_;
}

void KvPages::unlink(int32_t page) {
  pages_[pages_[page].previous].next = pages_[page].next;
  pages_[pages_[page].next].previous = pages_[page].previous;
  --available_;
}

void KvPages::forget(int32_t page) {
  int32_t* link = &bucket(pages_[page].hash);
  while (*link != page) link = &pages_[*link].next_in_bucket;
  *link = pages_[page].next_in_bucket;
  pages_[page].published = false;
}

}  // namespace qg
