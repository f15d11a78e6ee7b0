// SPDX-License-Identifier: Apache-2.0
#include "tests/support/golden.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>

namespace rankwise::testing {

std::string shared_folder() {
  if (const char* set = std::getenv("RANKWISE_SHARED")) return set;
  const std::string beside = "../shared";  // tests run in the repository root
  return std::filesystem::exists(beside + "/golden") ? beside : "";
}

Tensor load_f32(const SafetensorsFile& file, const std::string& name, Arena& arena) {
  const SafetensorsEntry& entry = file.at(name);
  Tensor out = arena.allocate("golden", DType::kF32, entry.shape);
  file.read(entry, out);
  return out;
}

Tensor load_i64(const SafetensorsFile& file, const std::string& name, Arena& arena) {
  const SafetensorsEntry& entry = file.at(name);
  Tensor out = arena.allocate("golden", DType::kI64, entry.shape);
  file.read(entry, out);
  return out;
}

double max_abs_difference(const Tensor& a, const Tensor& b) {
  RW_ASSERT(a.numel() == b.numel(), "{} {}", a.numel(), b.numel());
  double worst = 0.0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double difference =
        std::abs(static_cast<double>(a.data<float>()[i]) - b.data<float>()[i]);
    if (!(difference <= worst)) worst = difference;  // NaN is kept
  }
  return worst;
}

double relative_l2(const Tensor& actual, const Tensor& expected) {
  RW_ASSERT(actual.numel() == expected.numel(), "{} {}", actual.numel(), expected.numel());
  double error = 0.0;
  double norm = 0.0;
  for (int64_t i = 0; i < actual.numel(); ++i) {
    const double e = expected.data<float>()[i];
    const double d = actual.data<float>()[i] - e;
    error += d * d;
    norm += e * e;
  }
  return std::sqrt(error) / std::max(std::sqrt(norm), 1e-30);
}

}  // namespace rankwise::testing
