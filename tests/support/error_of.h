// SPDX-License-Identifier: Apache-2.0
// Tests of errors: the message of the expected exception, and a limit that makes writes fail.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <string>

namespace rankwise::testing {

// what() of the E that `call` throws; a test failure and "" when it throws nothing.
template <class E, class Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "no exception";
  return "";
}

// While it lives, no file of this process grows beyond `bytes`: writes fail with EFBIG, as they do
// with ENOSPC on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

}  // namespace rankwise::testing

// Checks that one line of text contains a part; shows both when not.
#define RW_EXPECT_HAS(text, part) \
  EXPECT_NE(std::string(text).find(part), std::string::npos) << text << "\nlacks\n" << part
