// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/sha256.h"

#include <openssl/evp.h>

#include <array>
#include <memory>
#include <vector>

#include "runtime/errors.h"
#include "runtime/io/regular_file.h"

namespace rankwise {
namespace {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    const bool started = context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1;
    RW_ASSERT(started, "OpenSSL has no SHA-256");
  }

  void update(std::span<const std::byte> bytes) {
    const bool done = EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1;
    RW_ASSERT(done, "{} bytes", bytes.size());
  }

  std::string hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int length = 0;
    const bool done = EVP_DigestFinal_ex(context_.get(), digest.data(), &length) == 1;
    RW_ASSERT(done, "{} bytes", length);
    std::string text;
    for (unsigned int i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
    return text;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

std::string sha256_hex(std::span<const std::byte> bytes) {
  Sha256 digest;
  digest.update(bytes);
  return digest.hex();
}

std::string sha256_file(const std::string& path) {
  constexpr size_t kBufferBytes = size_t{1} << 20;
  RegularFile file(path);
  Sha256 digest;
  std::vector<std::byte> buffer(kBufferBytes);
  while (const size_t got = file.read_some(buffer)) {
    digest.update(std::span<const std::byte>(buffer).first(got));
  }
  return digest.hex();
}

}  // namespace rankwise
