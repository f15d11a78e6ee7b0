// SPDX-License-Identifier: Apache-2.0
// TrainingData: the data sets of a run, tokenised, packed and dealt to this rank.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "launch/config/train_config.h"
#include "launch/model_files.h"
#include "parallel/device_mesh.h"
#include "runtime/data/data_loader.h"

namespace rankwise {

struct TrainingData {
  std::unique_ptr<Tokenizer> tokenizer;  // null when the model has none and all data is `tokens`
  std::shared_ptr<const Dataset> train;  // null when only evaluation data was asked for
  std::shared_ptr<const Dataset> eval;   // null when data.eval is empty
};

enum class DataParts { kTrainAndEval, kEval };

// DataError and ConfigError as runtime/data says; ConfigError when text must be tokenised and the
// model has no tokenizer.
TrainingData load_training_data(const TrainConfig& config, const ModelFiles& model,
                                DataParts parts);

// The loader of this rank's data shard.
DataLoader make_loader(const TrainConfig& config, std::shared_ptr<const Dataset> dataset,
                       const DeviceMesh& mesh);
// This shard's part of one evaluation over max_batches global batches (0: all of the data).
std::vector<MicroBatch> make_eval_batches(const TrainConfig& config, const Dataset& dataset,
                                          const DeviceMesh& mesh, int64_t max_batches);
// train.steps, or train.epochs over the loader's rows, rounded up.
int64_t total_steps(const TrainConfig& config, const DataLoader& loader);

// One line per data set: records, samples, tokens, what was dropped.
std::string describe(const DatasetReport& report);
// The first `count` samples decoded, trained tokens between "[[" and "]]".
std::string render_samples(const Dataset& dataset, const Tokenizer* tokenizer, size_t count);

}  // namespace rankwise
