// SPDX-License-Identifier: Apache-2.0
#include <fmt/ranges.h>

#include <array>

#include "model/families/family.h"
#include "runtime/errors.h"

namespace rankwise {
namespace {

const auto& registry() {
  static const std::array families = {
      &llama_family(),
      &mistral_family(),
  };
  return families;
}

}  // namespace

const ModelFamily& family_of(std::string_view model_type, std::string_view source) {
  for (const ModelFamily* family : registry()) {
    if (family->model_type == model_type) return *family;
  }
  throw FormatError(fmt::format("{}: model_type: {} is not supported; known: {}", source,
                                quote(model_type), fmt::join(known_families(), ", ")));
}

std::vector<std::string> known_families() {
  std::vector<std::string> names;
  for (const ModelFamily* family : registry()) names.push_back(family->model_type);
  return names;
}

}  // namespace rankwise
