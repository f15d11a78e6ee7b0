// SPDX-License-Identifier: Apache-2.0
// Error types of rankwise, the exit code each one leads to, and the assertion macro.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace rankwise {

// Process exit codes, part of the user contract (docs/exit_codes.md). Under SLURM the maximum over
// all tasks is reported, which is why "do not requeue" is the largest.
enum class ExitCode : int {
  kDone = 0,
  kInternal = 1,
  kConfig = 2,
  kData = 3,
  kFormat = 4,
  kOutOfMemory = 71,
  kCommunication = 72,
  kHang = 73,
  kDisk = 74,
  kRequeue = 75,
  kDiverged = 76,
  kDoNotRequeue = 93,
};

// Every error a user can cause or meet. what() is one line that names the file, key or tensor.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode exit_code() const { return code_; }

 private:
  ExitCode code_;
};

template <ExitCode kCode>
class CodedError : public Error {
 public:
  explicit CodedError(const std::string& message) : Error(kCode, message) {}
};

// Wrong configuration or command line: key, value, place, what is allowed.
using ConfigError = CodedError<ExitCode::kConfig>;
// Wrong training or evaluation data: file, row, reason.
using DataError = CodedError<ExitCode::kData>;
// A model, adapter, store or checkpoint file that breaks its format, or does not fit the model.
using FormatError = CodedError<ExitCode::kFormat>;
// Memory of a device or of the host does not suffice: purpose, requested and available bytes.
using OutOfMemoryError = CodedError<ExitCode::kOutOfMemory>;
// A failed call of MPI, NCCL or CUDA, or a rank that left: operation, code, rank, host.
using CommunicationError = CodedError<ExitCode::kCommunication>;
// A failed write, rename or sync: path, errno text. The previous file is intact.
using DiskError = CodedError<ExitCode::kDisk>;

// Text from a file or a user, for a message: in single quotes, control characters escaped, long
// text cut, so that the message stays one line.
std::string quote(std::string_view text);

namespace detail {
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line,
                                   const std::string& values);
}  // namespace detail

}  // namespace rankwise

// Our own mistakes only (never user input): prints condition, place and values, then aborts.
// RW_ASSERT(a == b, "a {} b {}", a, b)
#define RW_ASSERT(condition, ...)                                          \
  do {                                                                     \
    if (!(condition)) {                                                    \
      ::rankwise::detail::assertion_failed(#condition, __FILE__, __LINE__, \
                                           ::fmt::format("" __VA_ARGS__)); \
    }                                                                      \
  } while (false)
