// SPDX-License-Identifier: Apache-2.0
// `rankwise evaluate RUN.yaml [key=value ...]`: loss, perplexity and token accuracy on data.eval.
#pragma once

#include "launch/verbs/verb.h"

namespace rankwise {

std::unique_ptr<Verb> make_evaluate_verb();

}  // namespace rankwise
