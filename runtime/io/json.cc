// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/json.h"
