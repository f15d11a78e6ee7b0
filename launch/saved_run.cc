// SPDX-License-Identifier: Apache-2.0
#include "launch/saved_run.h"

#include <algorithm>

#include "model/config_reader.h"
#include "model/hf_folder.h"
#include "model/merged_weights.h"

namespace rankwise {
namespace {

ConfigReader run_of(const CheckpointReader& reader) {
  return ConfigReader(reader.scalars(), reader.path() + "/" + kManifestName, "scalars.")
      .object("run");
}

// null is a key that was not given.
Json without_nulls(const Json& json) {
  if (!json.is_structured()) return json;
  Json given = json.is_object() ? Json::object() : Json::array();
  for (const auto& [key, value] : json.items()) {
    if (value.is_null()) continue;
    (json.is_object() ? given[key] : given.emplace_back()) = without_nulls(value);
  }
  return given;
}

// Of one process and the CPU, whose weights are fp32.
TrainConfig config_of(const CheckpointReader& reader) {
  const Json given = without_nulls(run_of(reader).at("config"));
  TrainConfig config = parse_train_config(given.dump(), reader.path(), {});
  config.device = DeviceChoice::kCpu;
  config.model.compute = ComputeType::kFp32;
  config.parallel = {};
  for (AdaptRule& rule : config.adapt) rule.galore.weights = GaLoreWeights::kFp32;
  return config;
}

}  // namespace

SavedRun::SavedRun(const std::string& checkpoint)
    : reader_(checkpoint, *alone_),
      config_(config_of(reader_)),
      model_(load_model_config(config_.model.path)),
      adaptation_(config_, model_) {}

void SavedRun::read(const std::string& name, const Tensor& out, Stream& stream) const {
  const auto entry = reader_.manifest().tensors.find(name);
  const CheckpointTensor whole{name, out, out.shape(), whole_part(out.shape())};
  if (entry == reader_.manifest().tensors.end() || entry->second.dtype != DType::kBF16) {
    return reader_.read(whole, stream);
  }
  std::vector<uint16_t> halves(static_cast<size_t>(out.numel()));
  CheckpointTensor stored = whole;
  stored.value = Tensor(halves.data(), DType::kBF16, out.shape());
  reader_.read(stored, stream);
  std::ranges::transform(halves, out.data<float>(), float_from_bf16);
}

SavedAdapters SavedRun::load_adapters(Arena& arena, Stream& stream) const {
  SavedAdapters saved;
  const ModelPlan plan = adaptation_.plan(arena, stream);
  for (const auto& [name, shape] : weight_shapes(model_)) {
    if (shape.rank() != 2) continue;
    const std::string module = name.substr(0, name.rfind('.'));
    auto adapter = plan.make_adapter({module, shape.dim(1), shape.dim(0), ShardSpec::replicated()});
    if (!adapter) continue;
    for (const Parameter* parameter : adapter->parameters()) {
      read(parameter->name, parameter->dense(), stream);
    }
    saved.by_module.emplace_back(module, adapter.get());
    saved.owned.push_back(std::move(adapter));
  }
  const int64_t steps = run_of(reader_).positive("total_steps");
  saved.config = adaptation_.peft_config(saved.by_module, model_, steps);
  if (!saved.config.adalora) return saved;
  const int64_t triplets = saved.config.adalora->init_r;
  std::vector<uint8_t> kept(static_cast<size_t>(triplets) * saved.by_module.size());
  const Tensor choice(kept.data(), DType::kU8, {std::ssize(kept)});
  reader_.read({"rank_allocator.kept", choice, choice.shape(), whole_part(choice.shape())}, stream);
  auto begin = kept.begin();
  for (const auto& [module, adapter] : saved.by_module) {
    saved.config.adalora->kept[module].assign(begin, begin + triplets);
    begin += triplets;
  }
  return saved;
}

std::vector<NamedTensor> SavedRun::load_weights(Arena& arena, Stream& stream) const {
  const ConfigReader run = run_of(reader_);
  if (run.has("base_sha256") && base_digest(base()) != run.text("base_sha256")) {
    throw FormatError(base() + ": changed since the run, whose weights were trained from it");
  }
  const ModelFiles files = open_base(config_);
  const DeviceMesh mesh(*alone_, /*tensor_size=*/1);
  CausalLm model(model_, *files.weights, adaptation_.plan(arena, stream), mesh, arena, stream);
  for (const Parameter* parameter : model.trained_parameters()) {
    read(parameter->name, parameter->dense(), stream);
  }
  return base_weights(model, arena, stream);
}

}  // namespace rankwise
