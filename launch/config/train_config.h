// SPDX-License-Identifier: Apache-2.0
// TrainConfig: the typed tree of every option of a run, read from YAML and printed back.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/causal_lm.h"
#include "optim/projector.h"
#include "optim/schedule.h"
#include "runtime/data/dataset.h"
#include "runtime/io/json.h"

namespace rankwise {

// Names, defaults, help and ranges of all keys stand in config_schema.cc; the initialisers below
// are the defaults. Paths are kept as written and are relative to the current directory.

enum class DeviceChoice { kAuto, kCpu, kCuda };
enum class BaseQuantization { kNone, kNf4 };
enum class ModelInit { kWeights, kRandom };
enum class ComputeType { kAuto, kFp32, kBf16 };
enum class AdaptMethod { kLora, kDora, kAdaLora, kGaLore, kFull, kFrozen };
enum class PromptTemplate { kNone };
enum class OptimizerName { kAdamW, kAdamW8bit, kSgd };
enum class GaLoreWeights { kAuto, kFp32, kBf16 };
enum class GuardAction { kWarn, kSkip, kStop };

struct ModelSection {
  std::string path;
  ModelInit init = ModelInit::kWeights;
  BaseQuantization quant = BaseQuantization::kNf4;
  bool double_quant = true;  // has an effect with quant nf4 only
  ComputeType compute = ComputeType::kAuto;
  bool operator==(const ModelSection&) const = default;
};

// `warmup`: below 1 a fraction of all steps, otherwise a number of steps.
struct Warmup {
  double value = 0.03;
  int64_t steps(int64_t total_steps) const;
  bool operator==(const Warmup&) const = default;
};

// Budget of AdaLoRA's singular values (RankSchedule) and weight of its regulariser.
struct AdaLoraSection {
  int64_t init_rank = 12;
  int64_t target_rank = 8;
  Warmup warmup = {0.1};
  Warmup final = {0.3};  // fraction or steps at the end, as `warmup` at the beginning
  int64_t interval = 10;
  double beta1 = 0.85;
  double beta2 = 0.85;
  double orth_weight = 0.5;
  bool operator==(const AdaLoraSection&) const = default;
};

// Projection of gradients (ProjectionOptions).
struct GaLoreSection {
  int64_t rank = 128;
  int64_t refresh = 200;  // steps
  double scale = 0.25;
  ProjectionType projection = ProjectionType::kStd;
  bool exact = false;
  bool rotate_moments = false;
  GaLoreWeights weights = GaLoreWeights::kAuto;
  bool operator==(const GaLoreSection&) const = default;
};

// Which modules train, and how. The first matching rule wins (module_pattern.h).
struct AdaptRule {
  std::vector<std::string> match = {"all-linear"};  // "all-linear" or globs on HF module names
  AdaptMethod method = AdaptMethod::kLora;
  // Of adapters. With `from`, rank, alpha and rslora are those of the folder and may not be given
  // here; AdaLoRA has its own ranks, and neither it has rslora nor DoRA dropout.
  int64_t rank = 16;
  double alpha = 32.0;
  double dropout = 0.0;
  std::optional<std::string> from;  // PEFT adapter folder to start from
  bool rslora = false;
  double lr_ratio_b = 1.0;  // learning rate of B and magnitudes over that of A (LoRA+)
  AdaLoraSection adalora = {};
  GaLoreSection galore = {};

  bool has_adapter() const {
    return method == AdaptMethod::kLora || method == AdaptMethod::kDora ||
           method == AdaptMethod::kAdaLora;
  }
  bool trains_weights() const {
    return method == AdaptMethod::kFull || method == AdaptMethod::kGaLore;
  }
  bool operator==(const AdaptRule&) const = default;
};

struct DataSection {
  std::vector<DataSource> train;
  std::vector<DataSource> eval;
  bool shuffle = true;
  PromptTemplate prompt_template = PromptTemplate::kNone;  // key `template`
  int64_t seq_len = 2048;
  LongSamples long_samples = LongSamples::kUnset;
  bool packing = true;
  bool train_on_prompt = false;
  bool operator==(const DataSection&) const = default;
};

struct TrainSection {
  std::optional<int64_t> steps;  // exactly one of steps and epochs is set
  std::optional<double> epochs;
  int64_t global_batch = 64;  // rows per optimizer step over all ranks; a multiple of micro_batch
  int64_t micro_batch = 4;    // rows per forward pass of one rank
  int64_t seed = 42;
  std::optional<Recompute> recompute;  // unset: auto, the memory plan decides
  bool deterministic = false;          // the same bits in every run on CUDA; the CPU always does so
  bool operator==(const TrainSection&) const = default;
};

struct OptimSection {
  OptimizerName name = OptimizerName::kAdamW;
  double lr = 2e-4;
  ScheduleKind schedule = ScheduleKind::kCosine;
  Warmup warmup;
  double min_lr = 0.0;
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  double momentum = 0.0;  // of sgd
  double weight_decay = 0.0;
  double max_grad_norm = 1.0;  // 0: no clipping
  bool operator==(const OptimSection&) const = default;
};

struct ParallelSection {
  int64_t tensor = 1;
  bool shard_base = false;  // over the data ranks
  bool operator==(const ParallelSection&) const = default;
};

struct EvalSection {
  int64_t every = 100;   // steps between evaluations during training; 0: only at the end
  int64_t batches = 50;  // global batches per evaluation; 0: the whole evaluation data
  bool operator==(const EvalSection&) const = default;
};

struct CheckpointSection {
  std::string dir = "runs/default";  // the run folder (run_folder.h)
  int64_t every = 200;               // steps between checkpoints; 0: only at the end
  double every_minutes = 0.0;        // besides, since the last one; 0: never
  int64_t keep = 3;                  // newest
  bool best = true;                  // and the one with the best evaluation
  bool operator==(const CheckpointSection&) const = default;
};

struct LogSection {
  int64_t every = 1;  // steps between metric lines
  bool operator==(const LogSection&) const = default;
};

struct GuardSection {
  GuardAction nan = GuardAction::kStop;  // not kWarn
  GuardAction spike = GuardAction::kWarn;
  double spike_sigma = 6.0;          // StepGuard; 0: there are no spikes
  int64_t max_skips = 10;            // in a row
  int64_t hang_seconds = 300;        // PeerMonitor's deadline; 0: none
  int64_t replica_hash_every = 100;  // steps, and before each save; 0: never
  bool operator==(const GuardSection&) const = default;
};

struct TrainConfig {
  DeviceChoice device = DeviceChoice::kAuto;
  ModelSection model;
  std::vector<AdaptRule> adapt = {AdaptRule{}};
  DataSection data;
  TrainSection train;
  OptimSection optim;
  ParallelSection parallel;
  EvalSection eval;
  CheckpointSection checkpoint;
  LogSection log;
  GuardSection guard;
  bool operator==(const TrainConfig&) const = default;
};

// Reads `path` (YAML), then applies overrides such as "optim.lr=2e-4" or "adapt.0.rank=8".
// ConfigError with file:line:column (or "command line"), the key, what is allowed and the nearest
// valid name for anything unknown, duplicate, ill-typed, unused, out of range or missing.
TrainConfig load_train_config(const std::string& path, const std::vector<std::string>& overrides);
// The same for text in memory; `source` stands for the file name in messages.
TrainConfig parse_train_config(std::string_view yaml, std::string_view source,
                               const std::vector<std::string>& overrides);

// The resolved tree as YAML with the help of each key as a comment; parses back to an equal config.
std::string print_config(const TrainConfig& config);
// The resolved tree without comments, for run.json.
Json config_to_json(const TrainConfig& config);

}  // namespace rankwise
