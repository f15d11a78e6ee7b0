// SPDX-License-Identifier: Apache-2.0
// `rankwise demo`: writes the demo corpus and a model to pretrain, and scores a model on its task.
#pragma once

#include "launch/verbs/verb.h"

namespace rankwise {

std::unique_ptr<Verb> make_demo_verb();

}  // namespace rankwise
