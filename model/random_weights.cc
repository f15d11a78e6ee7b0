// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <span>

#include "model/config_reader.h"
#include "model/hf_folder.h"
#include "runtime/errors.h"
#include "runtime/rng.h"

namespace rankwise {
namespace {

// Nothing is stored: a tensor is a function of seed and name, its parts slices of that.
class RandomWeights : public WeightSource {
 public:
  RandomWeights(const ModelConfig& config, uint64_t seed)
      : seed_(seed),
        stddev_(static_cast<float>(
            ConfigReader(config.source.is_object() ? config.source : Json::object(), "config.json")
                .real_or("initializer_range", 0.02))) {
    for (auto& [name, shape] : weight_shapes(config)) {
      names_.push_back(name);
      shapes_.emplace(name, shape);
    }
  }

  std::vector<std::string> names() const override { return names_; }
  bool contains(std::string_view name) const override { return shapes_.contains(name); }
  Shape shape(std::string_view name) const override {
    const auto found = shapes_.find(name);
    if (found == shapes_.end()) {
      throw FormatError(fmt::format("{}: no tensor {}", description(), name));
    }
    return found->second;
  }
  DType dtype(std::string_view) const override { return DType::kF32; }

  void read(std::string_view name, const Tensor& out) const override {
    const Shape whole = shape(name);
    if (!(out.shape() == whole)) {
      throw FormatError(fmt::format("{}: tensor {} has shape {}, wanted {}", description(), name,
                                    to_string(whole), to_string(out.shape())));
    }
    fill(name, whole, 0, out);
  }

  void read_rows(std::string_view name, int64_t begin, int64_t end,
                 const Tensor& out) const override {
    const Shape whole = shape(name);
    const int64_t row = whole.numel() / whole.dim(0);
    RW_ASSERT(begin >= 0 && end <= whole.dim(0) && out.numel() == (end - begin) * row,
              "rows {}..{} of {}", begin, end, to_string(whole));
    fill(name, whole, begin * row, out);
  }

  void read_elements(std::string_view name, int64_t first, const Tensor& out) const override {
    const Shape whole = shape(name);
    RW_ASSERT(first >= 0 && out.numel() <= whole.numel() - first, "{} elements from {} of {}",
              out.numel(), first, to_string(whole));
    fill(name, whole, first, out);
  }

  std::optional<QuantizedTensor> read_quantized(std::string_view, const MatrixSlice&, Arena&,
                                                std::string_view) const override {
    return std::nullopt;
  }
  std::string description() const override { return fmt::format("random weights, seed {}", seed_); }

 private:
  // Matrices are drawn; of the vectors, biases start at 0 and norms at 1.
  void fill(std::string_view name, const Shape& whole, int64_t first, const Tensor& out) const {
    const std::span<float> values(out.data<float>(), static_cast<size_t>(out.numel()));
    if (whole.rank() < 2) {
      std::ranges::fill(values, name.ends_with(".bias") ? 0.0f : 1.0f);
      return;
    }
    const Rng rng(seed_, name);
    if (first == 0) {
      rng.fill_normal(values, 0.0f, stddev_);
      return;
    }
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = stddev_ * rng.normal(static_cast<uint64_t>(first) + i);
    }
  }

  uint64_t seed_;
  float stddev_;
  std::vector<std::string> names_;
  std::map<std::string, Shape, std::less<>> shapes_;
};

}  // namespace

std::unique_ptr<WeightSource> make_random_weights(const ModelConfig& config, uint64_t seed) {
  return std::make_unique<RandomWeights>(config, seed);
}

}  // namespace rankwise
