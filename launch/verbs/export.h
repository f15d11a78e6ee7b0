// SPDX-License-Identifier: Apache-2.0
// `rankwise export RUN_OR_CHECKPOINT -o DIR`: what a run trained, as a PEFT adapter folder or an HF
// model folder.
#pragma once

#include <cstdint>
#include <string>

#include "launch/verbs/verb.h"

namespace rankwise {

enum class ExportPart { kOnlyOne, kAdapter, kModel };

struct ExportOptions {
  std::string source;  // run folder, checkpoint, or an adapter or model folder itself
  std::string output;
  ExportPart part = ExportPart::kOnlyOne;  // of a run that trained both, one must be chosen
  bool overwrite = false;
};

struct ExportReport {
  bool is_adapter = false;
  std::string source;  // the folder or checkpoint that was exported
  int64_t tensors = 0;
  int64_t elements = 0;
  std::string zero_factor;       // "lora_B" or "lora_E", of adapters
  bool changes_nothing = false;  // every such factor is zero
};

// Reads everything back in and checks it before it is written: values are unchanged. ConfigError
// when there is nothing to export, the choice is ambiguous, or the output exists and `overwrite` is
// not set; FormatError names a tensor that does not fit; DiskError leaves nothing under the name.
ExportReport export_result(const ExportOptions& options);

}  // namespace rankwise
