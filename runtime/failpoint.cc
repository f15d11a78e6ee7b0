// SPDX-License-Identifier: Apache-2.0
#include "runtime/failpoint.h"

#include "runtime/errors.h"

#if RANKWISE_FAILPOINTS
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>
#endif

namespace rankwise {

#if RANKWISE_FAILPOINTS
namespace {

struct Failpoint {
  std::string name;
  int hits_left = 0;
  std::string action;
  int argument = 0;  // milliseconds, or an error number
};

std::mutex g_mutex;
std::vector<Failpoint> g_armed;

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    parts.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

int number(const std::string& text, int least) {
  int value = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end || value < least) {
    throw ConfigError(fmt::format("failpoint: {} is no number from {} on", quote(text), least));
  }
  return value;
}

void act(const Failpoint& point) {
  const auto failed = [&](std::string_view reason) {
    return DiskError(fmt::format("failpoint {}: {}", point.name, reason));
  };
  if (point.action == "kill") std::raise(SIGKILL);
  if (point.action == "abort") std::abort();
  if (point.action == "throw") throw failed("thrown");
  if (point.action == "errno") throw failed(std::strerror(point.argument));
  std::this_thread::sleep_for(std::chrono::milliseconds(point.argument));
}

}  // namespace

void arm_failpoints(std::string_view text, int rank) {
  std::vector<Failpoint> armed;
  for (const std::string& entry : split(text, ';')) {
    if (entry.empty()) continue;
    const std::vector<std::string> parts = split(entry, ':');
    const bool numbered = parts.size() == 5 && (parts[3] == "sleep" || parts[3] == "errno");
    const bool plain =
        parts.size() == 4 && (parts[3] == "kill" || parts[3] == "abort" || parts[3] == "throw");
    if (!numbered && !plain) {
      throw ConfigError(
          fmt::format("failpoint {}: not NAME:RANK:HIT:ACTION, ACTION one of kill, "
                      "abort, throw, sleep:MS, errno:E",
                      quote(entry)));
    }
    const int on = number(parts[1], -1);
    const Failpoint point{parts[0], number(parts[2], 1), parts[3],
                          numbered ? number(parts[4], 0) : 0};
    if (on == -1 || on == rank) armed.push_back(point);
  }
  const std::lock_guard lock(g_mutex);
  g_armed = std::move(armed);
}

void detail::reach_failpoint(std::string_view name) {
  std::vector<Failpoint> due;
  {
    const std::lock_guard lock(g_mutex);
    for (Failpoint& point : g_armed) {
      if (point.name == name && point.hits_left > 0 && --point.hits_left == 0) due.push_back(point);
    }
  }
  for (const Failpoint& point : due) act(point);
}

#else

void arm_failpoints(std::string_view text, int) {
  if (!text.empty()) throw ConfigError("this build has no failpoints (RANKWISE_FAILPOINTS)");
}

#endif

}  // namespace rankwise
