// SPDX-License-Identifier: Apache-2.0
// A library to preload (LD_PRELOAD): makes one call on a disk fail. Its environment:
//   FAULTY_IO_ROOT   folder; calls on paths and files in it count, others pass
//   FAULTY_IO_CALL   number of the call that fails, from 1; 0 or unset: none
//   FAULTY_IO_ERROR  ENOSPC, EDQUOT, EIO, EINTR, or SHORT: a read or write of half the bytes, which
//                    other calls pass
//   FAULTY_IO_RANK   only in the process of this rank (OMPI_COMM_WORLD_RANK, PMIX_RANK); unset: all
//   FAULTY_IO_MATCH  only calls whose "NAME PATH" this pattern describes (* is no slash) count;
//   unset: all FAULTY_IO_LIST   file to which every counted call is appended as "NUMBER NAME PATH"
// Counted: write, pwrite, ftruncate, fsync, fdatasync, rename, renameat, renameat2, link, unlink,
// unlinkat, rmdir, remove, close (of files opened for writing), mkdir, open (create, when it may),
// read, pread. A failing close has closed, as Linux does it.
#include <dlfcn.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

struct Plan {
  std::string root;
  std::string list;
  std::string match;
  int call = 0;
  int error = 0;  // 0: a short write
};

Plan read_plan() {
  Plan plan;
  std::array<char, PATH_MAX> resolved{};
  const std::string root = variable("FAULTY_IO_ROOT");
  std::string rank = variable("OMPI_COMM_WORLD_RANK");
  if (rank.empty()) rank = variable("PMIX_RANK");
  const std::string only = variable("FAULTY_IO_RANK");
  if (!root.empty() && (only.empty() || only == rank)) {
    plan.root = realpath(root.c_str(), resolved.data()) != nullptr ? resolved.data() : root.c_str();
  }
  plan.list = variable("FAULTY_IO_LIST");
  plan.match = variable("FAULTY_IO_MATCH");
  plan.call = std::atoi(variable("FAULTY_IO_CALL").c_str());
  const std::string error = variable("FAULTY_IO_ERROR");
  plan.error = error == "ENOSPC"   ? ENOSPC
               : error == "EDQUOT" ? EDQUOT
               : error == "EINTR"  ? EINTR
               : error == "SHORT"  ? 0
                                   : EIO;
  return plan;
}

const Plan& plan() {
  static const Plan* const made = new Plan(read_plan());  // calls come until the very end
  return *made;
}

// Where a path leads from, resolved as far as its folder: the last part may not exist yet.
std::string absolute(int folder, const char* path) {
  std::string text = path;
  if (text.empty() || text[0] != '/') {
    std::array<char, PATH_MAX> from{};
    const std::string link =
        folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/" + std::to_string(folder);
    if (readlink(link.c_str(), from.data(), from.size() - 1) > 0) {
      text = std::string(from.data()) + "/" + text;
    }
  }
  const size_t slash = text.rfind('/');
  if (slash == std::string::npos || slash == 0) return text;
  std::array<char, PATH_MAX> resolved{};
  if (realpath(text.substr(0, slash).c_str(), resolved.data()) == nullptr) return text;
  return resolved.data() + text.substr(slash);
}

std::string path_of(int file) {
  std::array<char, PATH_MAX> path{};
  const std::string link = "/proc/self/fd/" + std::to_string(file);
  const ssize_t length = readlink(link.c_str(), path.data(), path.size() - 1);
  return length > 0 ? std::string(path.data(), static_cast<size_t>(length)) : "";
}

void append_to_list(const std::string& line) {
  if (plan().list.empty()) return;
  static const int list = next<int(const char*, int, ...)>("open")(
      plan().list.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  next<ssize_t(int, const void*, size_t)>("write")(list, line.data(), line.size());
}

// Whether this call is the one to fail; errno is set when it is, unless by a short write.
bool fails(const char* name, const std::string& path) {
  const int before = errno;
  const std::string& root = plan().root;
  const bool inside = !root.empty() && path.starts_with(root) &&
                      (path.size() == root.size() || path[root.size()] == '/');
  const std::string call = std::string(name) + " " + path;
  const std::string& match = plan().match;
  if (!inside || (!match.empty() && fnmatch(match.c_str(), call.c_str(), FNM_PATHNAME) != 0))
    return false;
  static std::atomic<int> count{0};
  const int number = ++count;
  append_to_list(std::to_string(number) + " " + call + "\n");
  errno = before;
  if (number != plan().call) return false;
  if (plan().error != 0) errno = plan().error;
  return true;
}

// The same for calls that know no short form.
bool fails_whole(const char* name, const std::string& path) {
  return fails(name, path) && plan().error != 0;
}

template <class Transfer>
ssize_t transfer_or_fail(const char* name, int file, size_t bytes, Transfer real) {
  if (!fails(name, path_of(file))) return real(bytes);
  if (plan().error != 0) return -1;
  return real(std::max<size_t>(1, bytes / 2));
}

}  // namespace

// Of the function that is being defined, with the type it has.
#define RW_NEXT(function) static const auto real = next<decltype(function)>(#function)

// NOLINTBEGIN: names and parameters of the C library
extern "C" {

ssize_t write(int file, const void* data, size_t bytes) {
  RW_NEXT(write);
  return transfer_or_fail("write", file, bytes, [&](size_t n) { return real(file, data, n); });
}

ssize_t pwrite(int file, const void* data, size_t bytes, off_t offset) {
  RW_NEXT(pwrite);
  return transfer_or_fail("pwrite", file, bytes,
                          [&](size_t n) { return real(file, data, n, offset); });
}

ssize_t pwrite64(int file, const void* data, size_t bytes, off64_t offset) {
  RW_NEXT(pwrite64);
  return transfer_or_fail("pwrite", file, bytes,
                          [&](size_t n) { return real(file, data, n, offset); });
}

ssize_t read(int file, void* data, size_t bytes) {
  RW_NEXT(read);
  return transfer_or_fail("read", file, bytes, [&](size_t n) { return real(file, data, n); });
}

ssize_t pread(int file, void* data, size_t bytes, off_t offset) {
  RW_NEXT(pread);
  return transfer_or_fail("pread", file, bytes,
                          [&](size_t n) { return real(file, data, n, offset); });
}

ssize_t pread64(int file, void* data, size_t bytes, off64_t offset) {
  RW_NEXT(pread64);
  return transfer_or_fail("pread", file, bytes,
                          [&](size_t n) { return real(file, data, n, offset); });
}

int ftruncate(int file, off_t bytes) noexcept {
  RW_NEXT(ftruncate);
  return fails_whole("ftruncate", path_of(file)) ? -1 : real(file, bytes);
}

int ftruncate64(int file, off64_t bytes) noexcept {
  RW_NEXT(ftruncate64);
  return fails_whole("ftruncate", path_of(file)) ? -1 : real(file, bytes);
}

int fsync(int file) {
  RW_NEXT(fsync);
  return fails_whole("fsync", path_of(file)) ? -1 : real(file);
}

int fdatasync(int file) {
  RW_NEXT(fdatasync);
  return fails_whole("fdatasync", path_of(file)) ? -1 : real(file);
}

int rename(const char* from, const char* to) noexcept {
  RW_NEXT(rename);
  return fails_whole("rename", absolute(AT_FDCWD, to)) ? -1 : real(from, to);
}

int renameat(int from_folder, const char* from, int to_folder, const char* to) noexcept {
  RW_NEXT(renameat);
  if (fails_whole("renameat", absolute(to_folder, to))) return -1;
  return real(from_folder, from, to_folder, to);
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to,
              unsigned flags) noexcept {
  RW_NEXT(renameat2);
  if (fails_whole("renameat2", absolute(to_folder, to))) return -1;
  return real(from_folder, from, to_folder, to, flags);
}

int link(const char* from, const char* to) noexcept {
  RW_NEXT(link);
  return fails_whole("link", absolute(AT_FDCWD, to)) ? -1 : real(from, to);
}

int unlink(const char* path) noexcept {
  RW_NEXT(unlink);
  return fails_whole("unlink", absolute(AT_FDCWD, path)) ? -1 : real(path);
}

int unlinkat(int folder, const char* path, int flags) noexcept {
  RW_NEXT(unlinkat);
  return fails_whole("unlinkat", absolute(folder, path)) ? -1 : real(folder, path, flags);
}

int rmdir(const char* path) noexcept {
  RW_NEXT(rmdir);
  return fails_whole("rmdir", absolute(AT_FDCWD, path)) ? -1 : real(path);
}

int remove(const char* path) noexcept {
  RW_NEXT(remove);
  return fails_whole("remove", absolute(AT_FDCWD, path)) ? -1 : real(path);
}

int close(int file) {
  RW_NEXT(close);
  const int flags = fcntl(file, F_GETFL);
  const bool writes = flags >= 0 && (flags & O_ACCMODE) != O_RDONLY;
  if (!writes || !fails_whole("close", path_of(file))) return real(file);
  const int error = errno;
  real(file);
  errno = error;
  return -1;
}

int mkdir(const char* path, mode_t mode) noexcept {
  RW_NEXT(mkdir);
  return fails_whole("mkdir", absolute(AT_FDCWD, path)) ? -1 : real(path, mode);
}

int open(const char* path, int flags, ...) {
  RW_NEXT(open);
  std::va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  const char* name = (flags & O_CREAT) != 0 ? "create" : "open";
  return fails_whole(name, absolute(AT_FDCWD, path)) ? -1 : real(path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  RW_NEXT(open64);
  std::va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  const char* name = (flags & O_CREAT) != 0 ? "create" : "open";
  return fails_whole(name, absolute(AT_FDCWD, path)) ? -1 : real(path, flags, mode);
}

}  // extern "C"
// NOLINTEND
