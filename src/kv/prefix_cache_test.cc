#include "kv/prefix_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace sluice {
namespace {

using testing::ElementsAre;

using Tokens = std::vector<int32_t>;

constexpr int kPageSize = 2;

class PrefixCacheTest : public testing::Test {
 protected:
  // Holds pages for a whole text, the known ones first, and seals all that are full.
  PageList Write(const Tokens& tokens, const std::string& salt = "") {
    PageList pages = cache_.Find(salt, tokens);
    const size_t full = tokens.size() / kPageSize;
    while (pages.size() < full) {
      const size_t nth = pages.size();
      pages.push_back(allocator_.Allocate());
      cache_.Seal(salt, std::span(tokens).subspan(nth * kPageSize, kPageSize), pages, nth);
    }
    return pages;
  }

  size_t Known(const Tokens& tokens, const std::string& salt = "") {
    return cache_.Find(salt, tokens).size();
  }

  PageAllocator allocator_{8};
  PrefixCache cache_{allocator_, kPageSize};
};

TEST_F(PrefixCacheTest, FindsTheLongestKnownBeginning) {
  const BlockTable written = Write({1, 2, 3, 4, 5, 6}).ids();
  EXPECT_EQ(allocator_.num_free(), 8);
  EXPECT_EQ(allocator_.num_cached(), 3);
  EXPECT_EQ(cache_.Find("", Tokens{1, 2, 3, 4, 5, 6, 7}).ids(), written);
  EXPECT_THAT(cache_.Find("", Tokens{1, 2, 3, 4, 5}).ids(), ElementsAre(written[0], written[1]));
  EXPECT_THAT(cache_.Find("", Tokens{1, 2, 9, 4, 5, 6}).ids(), ElementsAre(written[0]));
  EXPECT_EQ(Known({3, 4, 5, 6}), 0u);  // known only after 1, 2
  EXPECT_EQ(Known({1}), 0u);
  EXPECT_EQ(Known({}), 0u);
}

TEST_F(PrefixCacheTest, FoundPagesAreHeld) {
  Write({1, 2, 3, 4});
  const PageList found = cache_.Find("", Tokens{1, 2, 3, 4});
  const PageList again = cache_.Find("", Tokens{1, 2});
  EXPECT_EQ(allocator_.num_free(), 6);
  EXPECT_EQ(allocator_.num_cached(), 0);
  EXPECT_EQ(allocator_.shares(found[0]), 2);
  EXPECT_EQ(allocator_.shares(found[1]), 1);
}

TEST_F(PrefixCacheTest, SaltsKeepTextsApart) {
  Write({1, 2, 3, 4}, "a");
  EXPECT_EQ(Known({1, 2, 3, 4}), 0u);
  EXPECT_EQ(Known({1, 2, 3, 4}, "b"), 0u);
  EXPECT_EQ(Known({1, 2, 3, 4}, "a"), 2u);
  Write({1, 2, 3, 4}, "b");
  EXPECT_EQ(allocator_.num_cached(), 4);
}

TEST_F(PrefixCacheTest, TextsThatWereWrittenAtOnceShareFromThenOn) {
  PageList first, second;
  first.push_back(allocator_.Allocate());
  second.push_back(allocator_.Allocate());
  cache_.Seal("", Tokens{1, 2}, first, 0);
  cache_.Seal("", Tokens{1, 2}, second, 0);
  EXPECT_EQ(second[0], first[0]);
  EXPECT_EQ(allocator_.num_free(), 7);
  EXPECT_EQ(allocator_.num_cached(), 0);
}

TEST_F(PrefixCacheTest, EvictsTheLeastRecentlyUsedAndTheEndOfATextFirst) {
  const BlockTable a = Write({1, 2, 3, 4}).ids();
  const BlockTable b = Write({5, 6, 7, 8}).ids();
  const BlockTable c = Write({1, 2, 9, 9}).ids();  // uses the first page of a again
  ASSERT_EQ(c[0], a[0]);
  EXPECT_EQ(allocator_.num_cached(), 5);
  std::vector<PageHandle> taken;
  const auto evicted = [&] {
    taken.push_back(allocator_.Allocate());
    return taken.back().id();
  };
  for (int i = 0; i < 3; ++i) evicted();  // nothing is kept in these
  EXPECT_EQ(cache_.evictions(), 0u);
  EXPECT_EQ(evicted(), a[1]);
  EXPECT_EQ(Known({1, 2, 3, 4}), 1u);  // which uses it, and with it c's first page
  EXPECT_EQ(evicted(), b[1]);
  EXPECT_EQ(evicted(), b[0]);
  EXPECT_EQ(Known({5, 6}), 0u);
  EXPECT_EQ(Known({1, 2, 9, 9}), 2u);
  EXPECT_EQ(evicted(), c[1]);
  EXPECT_EQ(evicted(), c[0]);
  EXPECT_EQ(cache_.evictions(), 5u);
  EXPECT_FALSE(allocator_.Allocate().valid());
}

TEST_F(PrefixCacheTest, HeldPagesAreNotEvicted) {
  const PageList held = Write({1, 2, 3, 4});
  std::vector<PageHandle> taken;
  while (allocator_.num_free() > 0) taken.push_back(allocator_.Allocate());
  EXPECT_EQ(taken.size(), 6u);
  EXPECT_EQ(Known({1, 2, 3, 4}), 2u);
}

TEST_F(PrefixCacheTest, ClearForgetsAll) {
  Write({1, 2, 3, 4});
  Write({1, 2, 5, 6}, "a");
  cache_.Clear();
  EXPECT_EQ(Known({1, 2, 3, 4}), 0u);
  EXPECT_EQ(Known({1, 2, 5, 6}, "a"), 0u);
  EXPECT_EQ(allocator_.num_free(), 8);
  EXPECT_EQ(allocator_.num_cached(), 0);
  EXPECT_EQ(cache_.evictions(), 0u);
  Write({1, 2, 3, 4});
  EXPECT_EQ(Known({1, 2, 3, 4}), 2u);
  const PageList held = cache_.Find("", Tokens{1, 2});
  EXPECT_THROW(cache_.Clear(), Error);
}

TEST_F(PrefixCacheTest, RefusesAPageWhoseParentIsNotSealed) {
  PageList pages;
  pages.push_back(allocator_.Allocate());
  pages.push_back(allocator_.Allocate());
  EXPECT_THROW(cache_.Seal("", Tokens{3, 4}, pages, 1), Error);
  EXPECT_THROW(cache_.Seal("", Tokens{3, 4, 5}, pages, 0), Error);
}

// Random texts that come, grow and go, against what a page was last written with and by whom. The
// model of eviction: texts are given back from their end, and the page that was given back first of
// those that are worth keeping goes first.
class PrefixCacheModel {
 public:
  explicit PrefixCacheModel(uint64_t seed) : random_(seed) {}

  void Run(int operations) {
    for (int i = 0; i < operations && !testing::Test::HasFatalFailure(); ++i) {
      const int choice = Pick(100);
      if (choice < 35) {
        Begin();
      } else if (choice < 80) {
        Grow();
      } else if (choice < 99) {
        End();
      } else {
        while (!texts_.empty()) End();
        cache_.Clear();
        ForgetContents();
      }
      Check();
    }
    EXPECT_GT(hits_, operations / 50);
    EXPECT_GT(cache_.evictions(), static_cast<uint64_t>(operations / 50));
  }

 private:
  static constexpr int kPages = 24;

  struct Text {
    std::string salt;
    Tokens tokens;  // as many as its pages hold, but for the last page while that is not sealed
    PageList pages;
    size_t sealed = 0;
  };
  using Content = std::pair<std::string, Tokens>;  // salt and every token up to the page's end

  int Pick(int bound) { return static_cast<int>(random_() % static_cast<uint64_t>(bound)); }

  Content ContentOf(const Text& text, size_t nth) const {
    const auto end = text.tokens.begin() + static_cast<ptrdiff_t>((nth + 1) * kPageSize);
    return {text.salt, Tokens(text.tokens.begin(), end)};
  }

  void Begin() {
    Text text{.salt = Pick(3) == 0 ? "salt" : "", .tokens = {}, .pages = {}};
    const int length = kPageSize * Pick(6);
    for (int i = 0; i < length; ++i) text.tokens.push_back(Pick(2));
    text.pages = cache_.Find(text.salt, text.tokens);
    text.sealed = text.pages.size();
    if (text.sealed * kPageSize < text.tokens.size()) {
      const Content next = ContentOf(text, text.sealed);
      for (const auto& [id, content] : written_) EXPECT_NE(content, next) << "page " << id;
    }
    text.tokens.resize(text.sealed * kPageSize);
    for (size_t i = 0; i < text.sealed; ++i) {
      const PageId id = text.pages[i];
      EXPECT_EQ(written_[id], ContentOf(text, i)) << "page " << id << " is of another text";
      kept_.remove(id);
    }
    hits_ += static_cast<int>(text.sealed);
    texts_.push_back(std::move(text));
  }

  // A page more, written and sealed; or only taken, as by a step that then fails.
  void Grow() {
    if (texts_.empty()) return;
    Text& text = texts_[Pick(static_cast<int>(texts_.size()))];
    if (text.pages.size() > text.sealed) return;
    const int free = allocator_.num_free();
    const PageHandle page = allocator_.Allocate();
    ASSERT_EQ(page.valid(), free > 0);
    if (!page.valid()) return;
    if (free == static_cast<int>(kept_.size())) {
      EXPECT_EQ(page.id(), kept_.front()) << "not the least recently used";
      kept_.pop_front();
    }
    written_.erase(page.id());
    text.pages.push_back(page);
    if (Pick(5) == 0) return;
    for (int i = 0; i < kPageSize; ++i) text.tokens.push_back(Pick(2));
    const size_t nth = text.sealed++;
    const Content content = ContentOf(text, nth);
    cache_.Seal(text.salt, std::span(text.tokens).last(kPageSize), text.pages, nth);
    const PageId id = text.pages[nth];
    if (id == page.id()) {
      written_[id] = content;
    } else {
      EXPECT_EQ(written_[id], content) << "replaced by a page of another text";
      kept_.remove(id);
    }
  }

  void End() {
    if (texts_.empty()) return;
    std::swap(texts_[Pick(static_cast<int>(texts_.size()))], texts_.back());
    const Text text = std::move(texts_.back());
    texts_.pop_back();
    for (size_t i = text.sealed; i-- > 0;) {
      const PageId id = text.pages[i];
      if (allocator_.shares(id) == 1) kept_.push_back(id);
    }
  }

  void ForgetContents() {
    written_.clear();
    kept_.clear();
  }

  void Check() const {
    std::map<PageId, int> shares;
    for (const Text& text : texts_) {
      for (size_t i = 0; i < text.pages.size(); ++i) {
        ++shares[text.pages[i]];
        EXPECT_EQ(allocator_.sealed(text.pages[i]), i < text.sealed);
      }
    }
    for (PageId id = 0; id < kPages; ++id) {
      const auto held = shares.find(id);
      ASSERT_EQ(allocator_.shares(id), held == shares.end() ? 0 : held->second) << "page " << id;
      if (held != shares.end() && held->second > 1) {
        EXPECT_TRUE(allocator_.sealed(id)) << "a page that is written to has two texts";
      }
    }
    ASSERT_EQ(static_cast<int>(shares.size()) + allocator_.num_free(), kPages) << "a page is lost";
    ASSERT_EQ(static_cast<int>(kept_.size()), allocator_.num_cached());
  }

  PageAllocator allocator_{kPages};
  PrefixCache cache_{allocator_, kPageSize};
  std::mt19937_64 random_;
  std::vector<Text> texts_;
  std::map<PageId, Content> written_;  // of sealed pages
  std::list<PageId> kept_;             // the next to be evicted first
  int hits_ = 0;
};

TEST(PrefixCacheProperty, NoPageIsLostOrGivenToAnotherText) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    PrefixCacheModel(seed).Run(3000);
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace sluice
