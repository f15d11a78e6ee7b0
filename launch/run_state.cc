// SPDX-License-Identifier: Apache-2.0
#include "launch/run_state.h"

#include <algorithm>
#include <map>
#include <regex>
#include <string>
#include <vector>

namespace rankwise {
namespace {

LocalTensor state_of(const Parameter& parameter, const std::string& kind,
                     const NamedTensor& state) {
  LocalTensor local{.name = state.name,
                    .value = state.tensor,
                    .shape = state.tensor.shape(),
                    .spec = parameter.gradient_spec()};
  if (kind == "projection_status") local.spec = ShardSpec::replicated();
  if (kind == "projection_left" || kind == "projection_right") {
    const int dim = kind == "projection_left" ? 0 : 1;
    const bool splits =
        parameter.spec.kind == ShardSpec::Kind::kSharded && parameter.spec.dim == dim;
    local.spec = splits ? parameter.spec : ShardSpec::replicated();
  }
  if (kind.ends_with("_absmax") || state.tensor.dtype() == DType::kU8) {
    local.shape = parameter.gradient_shape();
    local.layout_bound = true;
  }
  return local;
}

// Of what makes a run the one it is, by key.
std::map<std::string, Json> settings_of(const Json& run) {
  static const std::regex free_keys(
      R"((device|(parallel|eval|checkpoint|log|guard|data\.eval)(\..*)?|model\.path|)"
      R"(data\.train\.\d+\.path|adapt\.\d+\.from|train\.(micro_batch|recompute|deterministic|steps|epochs)))");
  std::map<std::string, Json> settings;
  const Json& config = run.at("config");
  const Json leaves = config.flatten();
  for (const auto& [pointer, value] : leaves.items()) {
    std::string key = pointer.substr(1);
    std::ranges::replace(key, '/', '.');
    if (!std::regex_match(key, free_keys)) settings[key] = value;
  }
  const Json& train = config.at("data").at("train");
  for (size_t i = 0; i < train.size(); ++i) {
    settings[fmt::format("data.train.{} (SHA-256)", i)] =
        run.at("data_sha256").at(train[i].at("path").get<std::string>());
  }
  settings["model.path (SHA-256)"] = run.value("base_sha256", Json());
  settings["train.steps"] = run.at("total_steps");
  return settings;
}

}  // namespace

std::vector<LocalTensor> run_tensors(Trainer& trainer) {
  std::vector<LocalTensor> tensors;
  std::map<std::string, const Parameter*> parameters;
  for (const Parameter* parameter : trainer.model().trained_parameters()) {
    parameters[parameter->name] = parameter;
    const Tensor& value = parameter->dense();
    tensors.push_back({parameter->name, value, value.shape(), parameter->spec});
  }
  for (const NamedTensor& state : trainer.optimizer().state()) {
    const size_t dot = state.name.rfind('.');
    const auto parameter = parameters.find(state.name.substr(0, dot));
    RW_ASSERT(parameter != parameters.end(), "{}", state.name);
    tensors.push_back(state_of(*parameter->second, state.name.substr(dot + 1), state));
  }
  if (trainer.adalora() == nullptr) return tensors;
  for (const auto& [name, tensor] : trainer.adalora()->allocator().state()) {
    tensors.push_back({name, tensor, tensor.shape(), ShardSpec::replicated()});
  }
  return tensors;
}

void continue_from(Trainer& trainer, int64_t step) {
  const StepGuard& guard = trainer.guard();
  trainer.optimizer().set_steps_taken(step - guard.skipped());
  if (trainer.adalora() != nullptr) {
    trainer.adalora()->allocator().set_steps_taken(step - guard.skipped_in_row());
  }
  if (step == 0) return;  // as the trainer was made, up to what it makes of the base again
  for (const auto& [module, adapter] : trainer.model().adapters()) adapter->parameters_restored();
}

void require_same_run(const Json& saved, const Json& present) {
  std::map<std::string, Json> before;
  try {
    before = settings_of(saved);
  } catch (const Json::exception&) {
    throw FormatError("the checkpoint does not describe its run");
  }
  std::map<std::string, Json> now = settings_of(present);
  for (const auto& [key, value] : before) now.try_emplace(key, nullptr);
  for (const auto& [key, value] : now) {
    const Json& old = before[key];
    if (value == old) continue;
    throw ConfigError(fmt::format(
        "{}: {}, but the run that is resumed has {}; a changed run needs a folder of its own "
        "(checkpoint.dir)",
        key, value.is_null() ? "not set" : value.dump(), old.is_null() ? "not set" : old.dump()));
  }
}

std::string other_surroundings(const Json& saved, const Json& present) {
  const auto without_number = [](const std::string& device) {  // "cuda:0 (MODEL)"
    const size_t model = device.find('(');
    return model == std::string::npos ? device
                                      : device.substr(model + 1, device.size() - model - 2);
  };
  const std::string device = present.value("device", "");
  std::vector<std::string> others;
  const auto compare = [&](const std::string& name, const std::string& was, const std::string& is) {
    if (was != is) others.push_back(fmt::format("{} {} (was {})", name, is, was));
  };
  compare("device", without_number(saved.value("device", "")), without_number(device));
  std::vector<std::string> libraries = {"mpi", "onednn", "openblas"};
  if (device != "cpu") libraries.insert(libraries.end(), {"cuda", "cublaslt", "cudnn", "nccl"});
  const Json before = saved.value("libraries", Json::object());
  const Json now = present.value("libraries", Json::object());
  for (const std::string& name : libraries) {
    const std::string was = before.value(name, "of unknown version");
    const std::string is = now.value(name, "");
    const bool is_version = was.find_first_of("0123456789") != std::string::npos;
    if (is_version || was.empty()) {
      compare(name, was.empty() ? "none" : was, is.empty() ? "none" : is);
    }
  }
  if (others.empty()) return "";
  return fmt::format(
      "not what the checkpoint was made with, so later values may differ in their "
      "last bits: {}",
      fmt::join(others, ", "));
}

}  // namespace rankwise
