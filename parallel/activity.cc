// SPDX-License-Identifier: Apache-2.0
#include "parallel/activity.h"

#include <fmt/format.h>

#include <utility>

namespace rankwise {

std::string Activity::Status::doing() const {
  if (!in_collective) return fmt::format("'{}'", work);
  const bool is_part = !work.empty() && work != operation;
  return fmt::format("'{}'", operation) + (is_part ? fmt::format(" of '{}'", work) : "");
}

void Activity::report(std::string_view operation, int patience, bool repeats) {
  begin(operation, [&] {
    status_.work = operation;
    status_.patience = patience;
    status_.repeats = repeats;
    status_.in_collective = false;
  });
}

void Activity::begin_collective(std::string_view operation) {
  begin(operation, [&] {
    status_.in_collective = true;
    ++status_.collectives;
  });
}

void Activity::end_collective() {
  const std::lock_guard lock(mutex_);
  status_.in_collective = false;
  status_.since = Clock::now();
}

Activity::Status Activity::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

void Activity::set_observer(std::function<void(std::string_view)> observer) {
  const std::lock_guard lock(mutex_);
  observer_ = std::move(observer);
}

// The observer may not return: it is called without the lock.
void Activity::begin(std::string_view operation, const std::function<void()>& change) {
  std::function<void(std::string_view)> observer;
  {
    const std::lock_guard lock(mutex_);
    change();
    status_.operation = operation;
    status_.since = Clock::now();
    observer = observer_;
  }
  if (observer) observer(operation);
}

}  // namespace rankwise
