// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoint/agreement.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <new>
#include <utility>

namespace rankwise {
namespace {

constexpr size_t kRanksNamed = 8;

[[noreturn]] void throw_as(ExitCode code, const std::string& message) {
  if (code == ExitCode::kDisk) throw DiskError(message);
  if (code == ExitCode::kFormat) throw FormatError(message);
  if (code == ExitCode::kOutOfMemory) throw OutOfMemoryError(message);
  if (code == ExitCode::kCommunication) throw CommunicationError(message);
  throw Error(code, message);
}

// What one rank knows for certain decides: what is not finite is not to be written again, and what
// cannot be read is not damaged. Of other codes the first.
bool outweighs(ExitCode code, ExitCode other) {
  const auto weight = [](ExitCode of) {
    return of == ExitCode::kDiverged ? 3 : of == ExitCode::kDisk ? 2 : of != ExitCode::kDone;
  };
  return weight(code) > weight(other);
}

std::string rank_list(const std::vector<size_t>& ranks) {
  const size_t named = std::min(ranks.size(), kRanksNamed);
  const std::vector<size_t> first(ranks.begin(), ranks.begin() + static_cast<ptrdiff_t>(named));
  return fmt::format("{} {}{}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(first, ", "),
                     named < ranks.size() ? fmt::format(" and {} more", ranks.size() - named) : "");
}

}  // namespace

Vote vote_on(const std::function<Json()>& action) {
  try {
    return {.body = action()};
  } catch (const Error& error) {
    return {.code = error.exit_code(), .error = error.what()};
  } catch (const std::bad_alloc&) {
    return {.code = ExitCode::kOutOfMemory, .error = "out of host memory"};
  } catch (const std::exception& error) {
    return {.code = ExitCode::kInternal, .error = error.what()};
  }
}

std::vector<Json> require_agreement(Communicator& communicator, const Vote& vote,
                                    std::string_view what, std::string_view operation) {
  const Json mine = {
      {"code", static_cast<int>(vote.code)}, {"error", vote.error}, {"body", vote.body}};
  const std::vector<std::string> texts = communicator.gather_text(
      mine.dump(-1, ' ', false, Json::error_handler_t::replace), operation);
  std::vector<Json> bodies;
  std::vector<std::pair<std::string, std::vector<size_t>>> errors;  // the same text once
  ExitCode code = ExitCode::kDone;
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    Json theirs = Json::parse(texts[rank]);
    bodies.push_back(std::move(theirs["body"]));
    const auto their_code = static_cast<ExitCode>(theirs["code"].get<int>());
    if (their_code == ExitCode::kDone) continue;
    if (outweighs(their_code, code)) code = their_code;
    const std::string text = theirs["error"].get<std::string>();
    const auto known = std::ranges::find(errors, text, &decltype(errors)::value_type::first);
    if (known == errors.end()) {
      errors.push_back({text, {rank}});
    } else {
      known->second.push_back(rank);
    }
  }
  if (code == ExitCode::kDone) return bodies;
  std::string message(what);
  for (const auto& [text, ranks] : errors) {
    message +=
        fmt::format("{} {}: {}", &text == &errors[0].first ? ":" : ";", rank_list(ranks), text);
  }
  throw_as(code, message);
}

}  // namespace rankwise
