// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/sha256.h"

#include <gtest/gtest.h>

#include "runtime/errors.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

// Vectors of FIPS 180-2.
constexpr const char* kEmpty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr const char* kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr const char* kMillion = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

TEST(Sha256, GivesThePublishedDigests) {
  EXPECT_EQ(sha256_hex({}), kEmpty);
  EXPECT_EQ(sha256_hex(std::as_bytes(std::span("abc", 3))), kAbc);
}

TEST(Sha256, FilesAreReadInPieces) {
  const testing::ScratchFolder folder;
  EXPECT_EQ(sha256_file(folder.write("empty", "")), kEmpty);
  EXPECT_EQ(sha256_file(folder.write("million", std::string(1'000'000, 'a'))), kMillion);
  const std::string large(3'000'001, 'x');  // more than one buffer
  EXPECT_EQ(sha256_file(folder.write("large", large)), sha256_hex(std::as_bytes(std::span(large))));
  testing::error_of<FormatError>([&] { sha256_file(folder.path()); });
}

}  // namespace
}  // namespace rankwise
