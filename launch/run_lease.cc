// SPDX-License-Identifier: Apache-2.0
#include "launch/run_lease.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <vector>

#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/json.h"

namespace rankwise {
namespace {

constexpr const char* kLeaseName = "lease.json";
constexpr std::chrono::seconds kRenewal(5);
constexpr double kStaleSeconds = 120.0;
constexpr std::chrono::milliseconds kLook(200);

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return name;
}

// In which the numbers of processes are this process's own; containers may share a host's name.
std::string pid_namespace() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/ns/pid", ignored).string();
}

// Tells a process from a later one with its number; "" when there is none.
std::string birth_of(int64_t pid) {
  std::ifstream in(fmt::format("/proc/{}/stat", pid));
  std::string text((std::istreambuf_iterator<char>(in)), {});
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return "";
  std::istringstream fields(text.substr(name_end + 1));
  const std::vector<std::string> words(std::istream_iterator<std::string>(fields), {});
  constexpr size_t kState = 0, kStartTime = 19;  // after the name
  return words.size() <= kStartTime || words[kState] == "Z" ? "" : words[kStartTime];
}

double modified(const std::string& path) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0) return 0.0;
  return static_cast<double>(status.st_mtim.tv_sec) +
         1e-9 * static_cast<double>(status.st_mtim.tv_nsec);
}

void touch(const std::string& path) { utimensat(AT_FDCWD, path.c_str(), nullptr, 0); }

struct Holder {
  std::string text{};
  std::string host{};
  int64_t pid = 0;
  std::string birth{};
  std::string job{};
  std::string pid_namespace{};
  bool was_read = false;
  std::string error{};
};

// Of one process, whatever had its number before: in a container every start may have the same.
std::string own_name(const std::string& path, const Holder& holder) {
  return fmt::format("{}.{}-{}-{}", path, holder.host, holder.pid, holder.birth);
}

// Nothing of it is known when the file cannot be read, or is damaged.
Holder read_holder(const std::string& path) {
  Holder holder;
  try {
    holder.text = read_file(path, 4096);
    holder.was_read = true;
    const Json lease = parse_json(holder.text, path);
    holder.host = lease.at("host").get<std::string>();
    holder.pid = lease.at("pid").get<int64_t>();
    holder.birth = lease.at("birth").get<std::string>();
    holder.job = lease.at("job").get<std::string>();
    holder.pid_namespace = lease.at("pid_namespace").get<std::string>();
  } catch (const std::exception& error) {
    holder.error = error.what();
  }
  return holder;
}

// DiskError when the file is there and cannot be read: who holds it is not known then.
Holder require_holder(const std::string& path) {
  const Holder holder = read_holder(path);
  std::error_code ignored;
  if (!holder.was_read && std::filesystem::exists(path, ignored)) throw DiskError(holder.error);
  return holder;
}

}  // namespace

RunLease::RunLease(const std::string& folder, const std::string& job)
    : path_(folder + "/" + kLeaseName) {
  make_folders(folder);
  const int64_t pid = getpid();
  own_ = own_name(path_, {.host = host_name(), .pid = pid, .birth = birth_of(pid)});
  text_ = Json{{"host", host_name()},
               {"pid", pid},
               {"birth", birth_of(pid)},
               {"job", job},
               {"pid_namespace", pid_namespace()}}
              .dump(-1, ' ', false, Json::error_handler_t::replace);  // names may be any bytes
  write_file_atomically(own_, text_);
  try {
    while (!take()) clear_stale();
  } catch (...) {
    unlink(own_.c_str());
    throw;
  }
  renewal_ = std::thread([this] { renew(); });
}

RunLease::~RunLease() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  ends_.notify_all();
  renewal_.join();
  if (read_holder(path_).text == text_) unlink(path_.c_str());
  unlink(own_.c_str());
}

void RunLease::require_held() const {
  const Holder holder = require_holder(path_);
  if (holder.text == text_) return;
  throw ConfigError(fmt::format(
      "checkpoint.dir: {} is no longer this process's: {}; it ends and saves nothing more",
      path_.substr(0, path_.rfind('/')),
      holder.text.empty() ? "the lease is gone"
                          : fmt::format("process {} on {} (job {}) has taken it over", holder.pid,
                                        holder.host, holder.job)));
}

// A link is made by one of several processes.
bool RunLease::take() const {
  if (link(own_.c_str(), path_.c_str()) == 0) return true;
  if (errno == EEXIST) return false;
  throw DiskError(fmt::format("{}: cannot take the lease: {}", path_, std::strerror(errno)));
}

// Returns when the lease was stale, and removed by this or another process, or given back.
void RunLease::clear_stale() const {
  const Holder holder = require_holder(path_);
  const bool here = holder.host == host_name() && holder.pid_namespace == pid_namespace();
  const auto refuse = [&] {
    throw ConfigError(fmt::format(
        "checkpoint.dir: {} is in use by process {} on {} (job {}); wait for its end, or choose "
        "another folder",
        path_.substr(0, path_.rfind('/')), holder.pid, holder.host, holder.job));
  };
  if (here && birth_of(holder.pid) == holder.birth && !holder.birth.empty()) refuse();
  const double seen = modified(path_);
  while (!here) {
    touch(own_);
    if (modified(own_) - seen > kStaleSeconds) break;
    std::this_thread::sleep_for(kLook);
    const double now = modified(path_);
    if (now == 0.0) return;
    if (now != seen) refuse();
  }
  // Only the one that was looked at may go: another process may have been quicker.
  const std::string aside = own_ + ".stale";
  if (rename(path_.c_str(), aside.c_str()) != 0) return;
  if (read_holder(aside).text != holder.text) link(aside.c_str(), path_.c_str());
  unlink(aside.c_str());
  unlink(own_name(path_, holder).c_str());
}

void RunLease::renew() {
  std::unique_lock lock(mutex_);
  while (!ends_.wait_for(lock, kRenewal, [this] { return ended_; })) touch(own_);
}

}  // namespace rankwise
