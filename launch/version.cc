// SPDX-License-Identifier: Apache-2.0
#include "launch/version.h"
