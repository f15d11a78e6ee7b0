// SPDX-License-Identifier: Apache-2.0
// `rankwise inspect PATH`: what is in a model, store, adapter or run folder.
#pragma once

#include "launch/verbs/verb.h"

namespace rankwise {

std::unique_ptr<Verb> make_inspect_verb();

}  // namespace rankwise
