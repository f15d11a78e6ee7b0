// SPDX-License-Identifier: Apache-2.0
// Random weights written by the device that holds them: a model of any size is there in seconds.
#pragma once

#include <memory>

#include "model/model_config.h"
#include "runtime/io/weight_source.h"
#include "runtime/rng.h"

namespace rankwise {

// For measurements: matrices are N(0, 0.02^2), those in 4 bits random codes of that size; norms 1,
// biases 0. Which values a matrix gets depends on its storage; all slices of it get the same.
std::unique_ptr<WeightSource> make_device_random_weights(const ModelConfig& config, uint64_t seed);

// Random codes and scales, of elements with about the standard deviation 0.02.
void fill_random_nf4(QuantizedTensor& out, const Rng& rng, Stream& stream);

}  // namespace rankwise
