// SPDX-License-Identifier: Apache-2.0
#include "launch/verbs/choice_options.h"

namespace rankwise {

void add_device_options(CLI::App& app, DeviceChoice& device, ComputeType& compute) {
  add_choice<DeviceChoice>(
      app, "--device", device,
      {{"auto", DeviceChoice::kAuto}, {"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}},
      "where to compute")
      ->default_str("auto");
  add_choice<ComputeType>(
      app, "--compute", compute,
      {{"auto", ComputeType::kAuto}, {"fp32", ComputeType::kFp32}, {"bf16", ComputeType::kBf16}},
      "number type; auto: fp32 on the CPU, bf16 on CUDA")
      ->default_str("auto");
}

void add_quant_option(CLI::App& app, bool& quantize_nf4, const std::string& help) {
  add_choice<bool>(app, "--quant", quantize_nf4, {{"none", false}, {"nf4", true}}, help)
      ->default_str(quantize_nf4 ? "nf4" : "none");
}

}  // namespace rankwise
