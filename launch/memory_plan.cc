// SPDX-License-Identifier: Apache-2.0
#include "launch/memory_plan.h"

#include <algorithm>
#include <span>

#include "launch/progress_line.h"
#include "launch/run_state.h"
#include "launch/trainer.h"

namespace rankwise {
namespace {

// Samples of a packed row: no more than the shortest ones that fit into it together.
int64_t most_documents(const std::vector<Sample>& samples, int64_t seq_len) {
  std::vector<int64_t> lengths;
  for (const Sample& sample : samples) {
    lengths.push_back(static_cast<int64_t>(sample.input_ids.size()));
  }
  std::ranges::sort(lengths);
  int64_t documents = 0;
  int64_t tokens = 0;
  for (const int64_t length : lengths) {
    tokens += length;
    if (tokens > seq_len) break;
    ++documents;
  }
  return std::max<int64_t>(1, documents);
}

Sample sample_of(int64_t tokens) {
  Sample sample;
  sample.input_ids.assign(static_cast<size_t>(tokens), 0);
  sample.labels.assign(static_cast<size_t>(tokens), 0);
  return sample;
}

int64_t checkpoint_bytes(Trainer& trainer, const DeviceMesh& mesh) {
  int64_t bytes = 0;
  for (const LocalTensor& tensor : run_tensors(trainer)) {
    if (writes_part(tensor.spec, mesh)) bytes += tensor.value.bytes();
  }
  return bytes;
}

}  // namespace

std::string_view name_of(Recompute choice) {
  if (choice == Recompute::kNone) return "none";
  return choice == Recompute::kSelective ? "selective" : "full";
}

int64_t MemoryPlan::total_bytes() const {
  int64_t total = scratch_bytes + (device.is_cuda() ? 0 : checkpoint_bytes);
  for (const Arena::Usage& purpose : usage) total += purpose.peak_bytes;
  return total;
}

void MemoryPlan::reserve(Arena& arena, Stream& stream) const {
  for (const Arena::Usage& purpose : usage) arena.reserve(purpose.purpose, purpose.peak_bytes);
  if (scratch_bytes > 0) stream.reserve_scratch(static_cast<size_t>(scratch_bytes));
}

std::string MemoryPlan::table() const {
  std::string text = "memory per rank\n";
  const auto add = [&](std::string_view name, int64_t bytes) {
    text += fmt::format("  {:<18}{:>12}\n", name, format_bytes(bytes));
  };
  for (const Arena::Usage& purpose : usage) add(purpose.purpose, purpose.peak_bytes);
  if (scratch_bytes > 0) add("scratch", scratch_bytes);
  if (!device.is_cuda()) add("checkpoint (host)", checkpoint_bytes);
  add("total", total_bytes());
  if (available_bytes > 0) add("available", available_bytes);
  if (device.is_cuda()) add("checkpoint (host)", checkpoint_bytes);
  text += fmt::format("recompute    {}", name_of(recompute));
  for (const auto& [choice, bytes] : too_large) {
    text += fmt::format("; {} needs {}", name_of(choice), format_bytes(bytes));
  }
  return text + "\n";
}

std::string MemoryPlan::summary() const {
  std::string text = fmt::format("needs {}", format_bytes(total_bytes()));
  if (available_bytes > 0) text += fmt::format(" of {} available", format_bytes(available_bytes));
  return fmt::format("{} on {}; recompute {}", text, to_string(device), name_of(recompute));
}

// Of a packed row, the first document is the longest that leaves a token to each of the others:
// neither the number of documents nor their length then exceeds what was measured.
MicroBatch largest_micro_batch(const TrainConfig& config, const Dataset& dataset) {
  int64_t length = config.data.seq_len;
  int64_t documents = 1;
  if (config.data.packing) {
    documents = most_documents(dataset.samples, length);
  } else {
    length = 0;
    for (const Sample& sample : dataset.samples) {
      length = std::max(length, static_cast<int64_t>(sample.input_ids.size()));
    }
  }
  MicroBatch batch;
  for (int64_t row = 0; row < config.train.micro_batch; ++row) {
    append_document(batch, sample_of(length - documents + 1));
    for (int64_t i = 1; i < documents; ++i) append_document(batch, sample_of(1));
  }
  return batch;
}

MemoryPlan plan_memory(const TrainConfig& config, const ModelFiles& files, const DeviceMesh& mesh,
                       const MicroBatch& batch, int64_t total_steps, Device device,
                       int64_t available_bytes) {
  std::vector<Recompute> choices = {Recompute::kNone, Recompute::kSelective, Recompute::kFull};
  if (config.train.recompute) choices = {*config.train.recompute};
  MemoryPlan plan{.device = device, .available_bytes = available_bytes};
  for (const Recompute choice : choices) {
    TrainConfig candidate = config;
    candidate.train.recompute = choice;
    const Adaptation adaptation(candidate, files.config);
    Arena arena(device, Arena::Mode::kMeasure);
    Stream stream(device, Stream::Mode::kMeasure);
    Trainer trainer(candidate, files, adaptation, mesh, arena, stream, total_steps);
    trainer.train_step(0, std::span(&batch, 1));
    plan.recompute = choice;
    plan.usage = arena.usage();
    plan.checkpoint_bytes = checkpoint_bytes(trainer, mesh);
    plan.scratch_bytes = static_cast<int64_t>(stream.scratch_peak_bytes());
    const bool fits = available_bytes == 0 || plan.total_bytes() <= available_bytes;
    if (fits || choice == choices.back()) break;
    plan.too_large.emplace_back(choice, plan.total_bytes());
  }
  return plan;
}

}  // namespace rankwise
