#include "hub/digest.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

std::string Of(DigestKind kind, std::string_view text) {
  Digest digest(kind, text.size());
  digest.Update(text.substr(0, text.size() / 2));
  digest.Update(text.substr(text.size() / 2));
  return digest.Finish();
}

// FIPS 180-2's example.
TEST(DigestTest, Sha256) {
  EXPECT_EQ(Of(DigestKind::kSha256, "abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

// `git hash-object` of an empty file and of "hello\n".
TEST(DigestTest, GitBlob) {
  EXPECT_EQ(Of(DigestKind::kGitBlob, ""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
  EXPECT_EQ(Of(DigestKind::kGitBlob, "hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
}

}  // namespace
}  // namespace sluice
