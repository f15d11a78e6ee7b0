// SPDX-License-Identifier: Apache-2.0
// Which singular triplets of AdaLoRA's adapters matter most: scores, the choice, its application.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/adamw.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace rankwise {

// Of the factors of one adapted matrix B diag(e) A: a (r, in), e (r) or (r, 1), b (out, r).
struct TripletImportance {
  Importance a, e, b;

  int64_t rank() const { return a.sensitivity.dim(0); }
};

// scores (n) F32, the modules' triplets one after another. With s = sensitivity * uncertainty of an
// element: score of triplet i = s(e_i) + mean_j s(a_ij) + mean_k s(b_ki). Sums in a fixed order.
void triplet_scores(const Tensor& scores, std::span<const TripletImportance> modules,
                    Stream& stream);

// keep (n) U8: 1 for the `count` highest of scores (n) F32, of equal ones those that come first,
// and 0 for the others; 0 <= count <= n < 2^31. Does not wait for the stream.
void keep_highest(const Tensor& keep, const Tensor& scores, int64_t count, Stream& stream);

// Elements of xs (F32), one tensor after another, become 0 where keep (n) U8 is 0.
void zero_dropped(std::span<const Tensor> xs, const Tensor& keep, Stream& stream);

}  // namespace rankwise
