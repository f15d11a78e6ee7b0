// SPDX-License-Identifier: Apache-2.0
// StepGraphs: forward and backward of a micro-batch as one launch, when its shape comes again.
#pragma once

#include <compare>
#include <functional>
#include <map>
#include <memory>

#include "model/causal_lm.h"
#include "runtime/graph.h"

namespace rankwise {

// Small models and short micro-batches keep a GPU busy for less time than launching their
// operations takes. The first micro-batch of a shape runs as usual (libraries make their plans),
// the second is recorded, later ones are replayed.
class StepGraphs {
 public:
  // What the recorded work depends on besides the values at its addresses.
  struct Key {
    int64_t tokens = 0;
    int64_t documents = 0;
    int64_t longest_document = 0;
    const void* first_address = nullptr;  // of the inputs: all others follow from it
    size_t scratch_bytes = 0;
    std::vector<bool> chunks_with_targets;
    auto operator<=>(const Key&) const = default;
  };

  // Does `work`, whose shape is `key`; true when it was replayed, so that `work` was not called.
  bool run(const Key& key, const std::function<void()>& work, Stream& stream);

 private:
  static constexpr size_t kMostGraphs = 32;       // a record of a small model takes some MiB
  std::map<Key, std::unique_ptr<Graph>> graphs_;  // null: seen once
};

}  // namespace rankwise
