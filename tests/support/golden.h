// SPDX-License-Identifier: Apache-2.0
// Golden material (../shared, or RANKWISE_SHARED): models, data and expected values for parity
// tests.
#pragma once

#include <string>

#include "runtime/arena.h"
#include "runtime/io/json.h"
#include "runtime/io/safetensors.h"

namespace rankwise::testing {

// Folder with golden/, models/, data/, tokenizers/; empty when absent. A test that needs it begins
// with RW_REQUIRE_SHARED(), which skips visibly.
std::string shared_folder();

// Whole tensor as F32 or I64/I32 in the arena ("golden").
Tensor load_f32(const SafetensorsFile& file, const std::string& name, Arena& arena);
Tensor load_i64(const SafetensorsFile& file, const std::string& name, Arena& arena);

// max |a - b|; relative L2 error |a - b| / max(|b|, 1e-30). Equal numel required.
double max_abs_difference(const Tensor& a, const Tensor& b);
double relative_l2(const Tensor& actual, const Tensor& expected);

}  // namespace rankwise::testing

#define RW_REQUIRE_SHARED()                                                             \
  do {                                                                                  \
    if (::rankwise::testing::shared_folder().empty())                                   \
      GTEST_SKIP() << "no golden material: set RANKWISE_SHARED or put it in ../shared"; \
  } while (false)
