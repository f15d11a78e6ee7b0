// SPDX-License-Identifier: Apache-2.0
// Votes: what one rank alone can fail at becomes the same error on all ranks, or none.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/communicator.h"
#include "runtime/errors.h"
#include "runtime/io/json.h"

namespace rankwise {

struct Vote {
  ExitCode code = ExitCode::kDone;
  std::string error{};  // of this rank alone
  Json body{};          // told to all
};

// Does what only this rank does, for a vote: never throws.
Vote vote_on(const std::function<Json()>& action);

// Called by all ranks: every rank's body, by rank. If any rank voted an error, all ranks throw the
// same one: "<what>: rank 2: <error>", naming every failing rank. Its kind is kDiverged or else
// kDisk if any rank met that, else that of the first failing rank.
std::vector<Json> require_agreement(Communicator& communicator, const Vote& vote,
                                    std::string_view what, std::string_view operation);

}  // namespace rankwise
