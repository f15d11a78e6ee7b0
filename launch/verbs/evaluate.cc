// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <ostream>

#include "launch/config/train_config.h"
#include "launch/device_choice.h"
#include "launch/evaluation.h"
#include "launch/inference_model.h"
#include "launch/training_data.h"
#include "launch/verbs/verb.h"
#include "runtime/io/safetensors.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

// Logits of every sample, each a document of its own, under "logits.<row>" (T, V).
void write_logits(const std::string& path, InferenceModel& loaded, const Dataset& dataset) {
  CausalLm& model = loaded.model();
  Arena& arena = loaded.arena();
  Stream& stream = loaded.stream();
  Arena host;
  std::vector<NamedTensor> rows;
  for (size_t row = 0; row < dataset.samples.size(); ++row) {
    const Arena::Scope scope = arena.scope("activations");
    MicroBatch batch;
    append_document(batch, dataset.samples[row]);
    ForwardContext context = model.forward(batch, /*training=*/false, /*step=*/0, stream);
    const Tensor logits = model.logits(context, 0, batch.tokens(), stream);
    const Tensor kept = host.allocate("logits", logits.dtype(), logits.shape());
    download(kept.raw(), logits, stream);
    rows.push_back({fmt::format("logits.{:06}", row), kept});
  }
  write_safetensors(path, std::move(rows));
}

class EvaluateVerb : public Verb {
 public:
  std::string name() const override { return "evaluate"; }
  std::string help() const override {
    return "loss, perplexity and token accuracy of a model on data.eval";
  }
  void add_options(CLI::App& app) override {
    app.add_option("RUN", run_, "configuration of the run (YAML)")->required();
    app.add_option("overrides", overrides_, "key=value pairs over the file");
    app.add_option("--adapter", adapter_, "PEFT adapter folder; without it the base is evaluated");
    app.add_option("--logits", logits_,
                   "also write the logits of every row to this safetensors file");
  }

  int run(VerbContext& context) override {
    const TrainConfig config = load_train_config(run_, overrides_);
    context.set_hang_deadline(config.guard.hang_seconds);
    if (config.data.eval.empty()) throw ConfigError("data.eval: nothing to evaluate on");
    if (!logits_.empty() && context.world.size() > 1) {
      throw ConfigError("--logits: logits are written by one rank; start evaluate without mpirun");
    }

    const Device device = choose_device(config.device, context.world, context.local_rank);
    const DType compute = choose_compute(config.model.compute, device);
    const DeviceMesh mesh(context.world, static_cast<int>(config.parallel.tensor), device);
    const ModelFiles files = open_base(config);
    const TrainingData data = load_training_data(config, files, DataParts::kEval);
    // The adapt rules of the run do not matter: the base is evaluated, with the adapter if any.
    InferenceModel loaded(files,
                          {.adapter = adapter_,
                           .quantize_nf4 = config.model.quant == BaseQuantization::kNf4,
                           .double_quant = config.model.double_quant,
                           .device = device,
                           .compute = compute},
                          mesh);
    const EvaluationResult result =
        evaluate_loss(loaded.model(),
                      make_eval_batches(config, *data.eval, mesh, config.eval.batches), mesh,
                      loaded.arena(), loaded.stream())
            .value();
    context.out << fmt::format("eval data        {}\n", describe(data.eval->report))
                << fmt::format("evaluated tokens {}\n", result.trained_tokens)
                << fmt::format("loss             {:.6f}\n", result.loss)
                << fmt::format("perplexity       {:.4f}\n", result.perplexity())
                << fmt::format("token accuracy   {:.4f}\n", result.token_accuracy);
    if (!logits_.empty()) {
      write_logits(logits_, loaded, *data.eval);
      context.out << fmt::format("logits           {}\n", logits_);
    }
    return static_cast<int>(ExitCode::kDone);
  }

 private:
  std::string run_;
  std::vector<std::string> overrides_;
  std::string adapter_;
  std::string logits_;
};

}  // namespace

std::unique_ptr<Verb> make_evaluate_verb() { return std::make_unique<EvaluateVerb>(); }

}  // namespace rankwise
