#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace sluice {

// What a hub knows a file's content by.
enum class DigestKind {
  kSha256,   // large files (Git LFS): SHA-256 of the content
  kGitBlob,  // the others: SHA-1 of "blob SIZE\0" and the content, as git names objects
};

// A digest of content that comes in pieces.
class Digest {
 public:
  // `size` is that of the whole content, which a git blob's digest begins with.
  Digest(DigestKind kind, uint64_t size);
  ~Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;

  void Update(std::string_view bytes);
  // In lower-case hex. To be called once, last.
  std::string Finish();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

}  // namespace sluice
