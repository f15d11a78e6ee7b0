// SPDX-License-Identifier: Apache-2.0
// `rankwise doctor`: what this machine offers and lacks.
#pragma once

#include "launch/verbs/verb.h"

namespace rankwise {

std::unique_ptr<Verb> make_doctor_verb();

}  // namespace rankwise
