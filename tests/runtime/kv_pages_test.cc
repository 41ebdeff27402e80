#include "runtime/kv_pages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <vector>

#include "core/error.h"
#include "core/rng.h"

namespace qg {
namespace {

PageHash hash_of(uint64_t n) {
  return {mix64(n), n};
}

TEST(KvPages, TakesEveryPageOnce) {
  KvPages pages(5);
  std::vector<int32_t> taken;
  while (pages.available() > 0) taken.push_back(pages.take());
  std::ranges::sort(taken);
  EXPECT_EQ(taken, (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pages.used(), 5);
  for (const int32_t page : taken) pages.release(page);
  EXPECT_EQ(pages.available(), 5);
  EXPECT_EQ(pages.used(), 0);
}

TEST(KvPages, NoPagesIsAnError) {
  EXPECT_THROW(KvPages(0), Error);
  EXPECT_THROW(KvPages(int64_t{1} << 40), Error);
}

TEST(KvPages, PublishedPageIsFoundUntilItIsTaken) {
  KvPages pages(2);
  const int32_t a = pages.take();
  EXPECT_EQ(pages.find(hash_of(1)), -1);
  pages.publish(a, hash_of(1));
  EXPECT_EQ(pages.find(hash_of(1)), a);
  pages.release(a);
  EXPECT_EQ(pages.cached(), 1);
  EXPECT_EQ(pages.available(), 2);
  pages.share(a);
  EXPECT_EQ(pages.cached(), 0);
  EXPECT_EQ(pages.references(a), 1);
  pages.share(a);
  pages.release(a);
  EXPECT_EQ(pages.available(), 1);
  pages.release(a);
  const int32_t b = pages.take();
  EXPECT_NE(b, a) << "a page without a use comes first";
  EXPECT_EQ(pages.find(hash_of(1)), a);
  EXPECT_EQ(pages.take(), a);
  EXPECT_EQ(pages.find(hash_of(1)), -1) << "its content is about to be overwritten";
  EXPECT_EQ(pages.cached(), 0);
}

TEST(KvPages, ForgetsTheLeastRecentlyUsedPage) {
  KvPages pages(3);
  std::vector<int32_t> p;
  for (int i = 0; i < 3; ++i) {
    p.push_back(pages.take());
    pages.publish(p[i], hash_of(i));
  }
  pages.release(p[1]);
  pages.release(p[0]);
  pages.release(p[2]);
  pages.share(p[1]);
  pages.release(p[1]);  // used again: now the newest
  EXPECT_EQ(pages.take(), p[0]);
  EXPECT_EQ(pages.take(), p[2]);
  EXPECT_EQ(pages.take(), p[1]);
}

TEST(KvPages, SecondPageWithTheSameContentStaysPrivate) {
  KvPages pages(2);
  const int32_t a = pages.take(), b = pages.take();
  pages.publish(a, hash_of(1));
  pages.publish(b, hash_of(1));
  EXPECT_EQ(pages.find(hash_of(1)), a);
  pages.release(b);
  EXPECT_EQ(pages.cached(), 0);
  pages.release(a);
  EXPECT_EQ(pages.cached(), 1);
}

// A plain model of the same rules, searched linearly.
struct Model {
  struct Page {
    int references = 0;
    bool published = false;
    uint64_t content = 0;
  };
  std::map<int32_t, Page> pages;
  std::deque<int32_t> available;  // in the order of being taken

  int32_t find(uint64_t content) const {
    for (const auto& [number, page] : pages)
      if (page.published && page.content == content) return number;
    return -1;
  }
};

TEST(KvPages, AgreesWithPlainModelOnRandomUse) {
  Rng rng(7);
  for (int round = 0; round < 20; ++round) {
    const int count = 1 + static_cast<int>(rng.next_below(12));
    KvPages pages(count);
    Model model;
    for (int i = 0; i < count; ++i) model.available.push_back(i);
    std::vector<int32_t> held;  // one entry a reference
    for (int i = 0; i < 3000; ++i) {
      const uint64_t content = rng.next_below(20);
      switch (rng.next_below(4)) {
        case 0:
          if (model.available.empty()) break;
          ASSERT_EQ(pages.take(), model.available.front());
          held.push_back(model.available.front());
          model.pages[held.back()] = {1, false, 0};
          model.available.pop_front();
          break;
        case 1: {
          if (held.empty()) break;
          const size_t at = rng.next_below(held.size());
          const int32_t number = held[at];
          held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
          pages.release(number);
          Model::Page& page = model.pages[number];
          if (--page.references > 0) break;
          if (page.published)
            model.available.push_back(number);
          else
            model.available.push_front(number);
          break;
        }
        case 2: {
          if (held.empty()) break;
          const int32_t number = held[rng.next_below(held.size())];
          pages.publish(number, hash_of(content));
          Model::Page& page = model.pages[number];
          if (page.published || model.find(content) >= 0) break;
          page.published = true;
          page.content = content;
          break;
        }
        default: {
          const int32_t number = pages.find(hash_of(content));
          ASSERT_EQ(number, model.find(content));
          if (number < 0) break;
          pages.share(number);
          if (model.pages[number].references++ == 0) std::erase(model.available, number);
          held.push_back(number);
        }
      }
      ASSERT_EQ(pages.available(), static_cast<int64_t>(model.available.size()));
      ASSERT_EQ(pages.cached(),
                std::ranges::count_if(model.available, [&](int32_t n) { return model.pages[n].published; }));
    }
  }
}

}  // namespace
}  // namespace qg
