// SPDX-License-Identifier: Apache-2.0
// Version, commit, backends and library versions of this program.
#pragma once
