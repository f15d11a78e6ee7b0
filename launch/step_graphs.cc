// SPDX-License-Identifier: Apache-2.0
#include "launch/step_graphs.h"

namespace rankwise {

bool StepGraphs::run(const Key& key, const std::function<void()>& work, Stream& stream) {
  const auto found = graphs_.find(key);
  if (found == graphs_.end()) {
    if (graphs_.size() < kMostGraphs) graphs_.emplace(key, nullptr);
    work();
    return false;
  }
  const bool replayed = found->second != nullptr;
  if (!replayed) found->second = std::make_unique<Graph>(stream, work);
  found->second->launch(stream);
  return replayed;
}

}  // namespace rankwise
