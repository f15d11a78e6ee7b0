// SPDX-License-Identifier: Apache-2.0
#include "launch/device_random_weights.h"

#include "kernels/elementwise.h"
#include "kernels/quantize.h"
#include "model/hf_folder.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

constexpr float kStddev = 0.02f;
// The 16 values of NF4, equally frequent, have the root mean square 0.52.
constexpr float kMeanScale = kStddev / 0.52f;
constexpr float kScaleRange = 0.25f * kMeanScale;

class DeviceRandomWeights : public WeightSource {
 public:
  DeviceRandomWeights(const ModelConfig& config, uint64_t seed)
      : seed_(seed), host_(make_random_weights(config, seed)) {}

  std::vector<std::string> names() const override { return host_->names(); }
  bool contains(std::string_view name) const override { return host_->contains(name); }
  Shape shape(std::string_view name) const override { return host_->shape(name); }
  DType dtype(std::string_view name) const override { return host_->dtype(name); }
  void read(std::string_view name, const Tensor& out) const override { host_->read(name, out); }
  void read_elements(std::string_view name, int64_t first, const Tensor& out) const override {
    host_->read_elements(name, first, out);
  }
  bool generate(std::string_view name, const Tensor& out, Stream& stream) const override {
    if (out.rank() < 2) {
      fill(out, name.ends_with(".bias") ? 0.0f : 1.0f, stream);
    } else {
      fill_normal(out, 0.0f, kStddev, Rng(seed_, name), stream);
    }
    return true;
  }
  bool generate_quantized(std::string_view name, QuantizedTensor& out,
                          Stream& stream) const override {
    fill_random_nf4(out, Rng(seed_, name), stream);
    return true;
  }
  std::string description() const override { return host_->description(); }

 private:
  uint64_t seed_;
  std::unique_ptr<WeightSource> host_;
};

}  // namespace

std::unique_ptr<WeightSource> make_device_random_weights(const ModelConfig& config, uint64_t seed) {
  return std::make_unique<DeviceRandomWeights>(config, seed);
}

void fill_random_nf4(QuantizedTensor& out, const Rng& rng, Stream& stream) {
  fill_random_bytes(out.codes, rng, stream);
  if (!out.nested()) {
    fill(out.absmax, kMeanScale, stream);
    return;
  }
  fill_random_bytes(out.absmax, rng, stream);
  fill(out.nested_absmax, kScaleRange, stream);
  upload(out.nested_map, signed_dynamic_map().data(), stream);
  out.nested_offset = kMeanScale;
}

}  // namespace rankwise
