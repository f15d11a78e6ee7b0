// SPDX-License-Identifier: Apache-2.0
// `rankwise bench [matmul|nf4|attention|step|kernels ...]`: measured rates beside the measured
// ceiling.
#pragma once

#include "launch/verbs/verb.h"

namespace rankwise {

std::unique_ptr<Verb> make_bench_verb();

}  // namespace rankwise
