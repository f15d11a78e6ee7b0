// SPDX-License-Identifier: Apache-2.0
// Many tensors in one launch: their addresses travel as kernel parameters, of which 4 KB fit.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/launch.cuh"

namespace rankwise::cuda {

// Item holds the addresses and `int64_t count`, the elements. Every thread block works on one chunk
// of at most kChunk elements of one tensor.
template <class Item, int kCapacity, int kChunk>
struct TensorList {
  static constexpr int kMost = kCapacity;
  struct Part {
    Item item;
    int64_t begin;  // elements [begin, begin + count)
    int64_t count;
  };

  Item items[kCapacity];
  int first_block[kCapacity];
  int tensors = 0;
  int blocks = 0;

  static int64_t blocks_of(int64_t count) { return ceil_div(count, kChunk); }

  void append(const Item& item) {
    const int64_t end = blocks + blocks_of(item.count);
    RW_ASSERT(end <= INT32_MAX, "{} blocks", end);
    items[tensors] = item;
    first_block[tensors++] = blocks;
    blocks = static_cast<int>(end);
  }

  __device__ Part part_of_block(int block) const {
    int last = tensors;  // the tensor is in [tensor, last)
    int tensor = 0;
    while (last - tensor > 1) {
      const int middle = (tensor + last) / 2;
      if (first_block[middle] <= block) {
        tensor = middle;
      } else {
        last = middle;
      }
    }
    const int64_t begin = int64_t{block - first_block[tensor]} * kChunk;
    return {items[tensor], begin, min(int64_t{kChunk}, items[tensor].count - begin)};
  }
};

// Calls launch(list) with the items in order, as many as fit each time; empty tensors are left out.
template <class List, class Item, class Launch>
void for_each_list(const std::vector<Item>& items, Launch&& launch) {
  static_assert(sizeof(List) <= 4000);
  List list;
  for (const Item& item : items) {
    if (item.count == 0) continue;
    list.append(item);
    if (list.tensors < List::kMost) continue;
    launch(list);
    list = List{};
  }
  if (list.tensors > 0) launch(list);
}

}  // namespace rankwise::cuda
