// SPDX-License-Identifier: Apache-2.0
#include "optim/schedule.h"
