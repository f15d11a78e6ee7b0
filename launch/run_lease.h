// SPDX-License-Identifier: Apache-2.0
// RunLease: at most one job at a time writes a run folder.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace rankwise {

// A file in the folder that names host, process and job, renewed every few seconds by a thread. It
// is taken over when its process is gone from this host, or when it was not renewed for two
// minutes, by the clock of the file system.
class RunLease {
 public:
  // Creates the folder. ConfigError naming the holder when another process has the lease: at once
  // on the same host, else as soon as it is renewed, which is waited for. DiskError.
  RunLease(const std::string& folder, const std::string& job);
  ~RunLease();  // gives it back
  // ConfigError naming who has it now, when another process has taken it over: this one was not
  // heard of for too long. DiskError when that cannot be read.
  void require_held() const;
  RunLease(const RunLease&) = delete;
  RunLease& operator=(const RunLease&) = delete;

 private:
  bool take() const;  // false: another one holds it
  void clear_stale() const;
  void renew();

  std::string path_;
  std::string own_;   // what is linked to path_
  std::string text_;  // of it
  std::mutex mutex_;
  std::condition_variable ends_;
  bool ended_ = false;
  std::thread renewal_;
};

}  // namespace rankwise
