// SPDX-License-Identifier: Apache-2.0
// `rankwise train RUN.yaml [key=value ...]`: the main job.
#pragma once

#include "launch/verbs/verb.h"

namespace rankwise {

std::unique_ptr<Verb> make_train_verb();

}  // namespace rankwise
