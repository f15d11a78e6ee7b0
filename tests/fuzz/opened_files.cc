// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/opened_files.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <future>
#include <thread>

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;

// From now on every opening of this thread waits until the one that holds the result, a descriptor,
// lets it go on; -1 when the kernel has none of this.
int watch_this_thread() {
  constexpr auto kCalls = std::to_array<unsigned>({SYS_open, SYS_creat, SYS_openat, SYS_openat2});
  std::vector<sock_filter> program = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (size_t i = 0; i < kCalls.size(); ++i) {
    const auto to_notify = static_cast<uint8_t>(kCalls.size() - i);
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kCalls[i], to_notify, 0));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF));
  const sock_fprog filter = {static_cast<unsigned short>(program.size()), program.data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
  return static_cast<int>(
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter));
}

// The caller waits in the kernel: its memory, which is ours, does not change meanwhile.
std::string path_of(const seccomp_data& call) {
  const bool has_folder = call.nr == SYS_openat || call.nr == SYS_openat2;
  const fs::path name = reinterpret_cast<const char*>(call.args[has_folder ? 1 : 0]);
  const int folder = has_folder ? static_cast<int>(call.args[0]) : AT_FDCWD;
  const fs::path start = folder == AT_FDCWD
                             ? fs::current_path()
                             : fs::read_symlink("/proc/self/fd/" + std::to_string(folder));
  std::error_code error;
  const fs::path real = fs::weakly_canonical(start / name, error);
  return (error ? start / name : real).string();
}

void answer(int watch, std::vector<std::string>& opened) {
  seccomp_notif call{};
  if (ioctl(watch, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0) return;
  opened.push_back(path_of(call.data));
  seccomp_notif_resp response{};
  response.id = call.id;
  response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
  ioctl(watch, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

}  // namespace

std::optional<std::vector<std::string>> opened_by(const std::function<void()>& work) {
  constexpr int kMilliseconds = 1;  // until an end without a call is seen
  std::promise<int> started;
  std::atomic<bool> done = false;
  std::exception_ptr failure;
  std::thread worker([&] {
    const int watch = watch_this_thread();
    started.set_value(watch);
    try {
      if (watch >= 0) work();
    } catch (...) {
      failure = std::current_exception();
    }
    done = true;
  });
  const int watch = started.get_future().get();
  std::vector<std::string> opened;
  pollfd event = {watch, POLLIN, 0};
  while (watch >= 0 && !done) {
    if (poll(&event, 1, kMilliseconds) > 0 && (event.revents & POLLIN) != 0) answer(watch, opened);
  }
  worker.join();
  if (watch < 0) return std::nullopt;
  close(watch);
  if (failure) std::rethrow_exception(failure);
  return opened;
}

}  // namespace rankwise::testing
