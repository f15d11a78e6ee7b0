// SPDX-License-Identifier: Apache-2.0
#include "launch/config/config_schema.h"

namespace rankwise {

namespace {

constexpr int64_t kMaxCount = 1'000'000'000'000;
constexpr int64_t kMaxRank = 65536;
constexpr Range<int64_t> kAtLeastOne = {.min = 1, .max = kMaxCount};
constexpr Range<int64_t> kNotNegative = {.min = 0, .max = kMaxCount};
constexpr Range<double> kFraction = {.min = 0.0, .max = 1.0, .max_allowed = false};
constexpr Range<double> kInner = {
    .min = 0.0, .max = 1.0, .min_allowed = false, .max_allowed = false};
constexpr Range<double> kPositive = {.min = 0.0, .min_allowed = false};
constexpr Range<double> kNotNegativeReal = {.min = 0.0};

void visit_model(ModelSection& model, ConfigVisitor& visitor) {
  visitor.leaf({"path",
                "Hugging Face folder (config.json, safetensors, tokenizer), or a store written by "
                "`quantize`",
                true},
               text_leaf(model.path));
  visitor.leaf(
      {"init", "those of path, or a fresh model after its config.json"},
      choice_leaf(model.init, {{"weights", ModelInit::kWeights}, {"random", ModelInit::kRandom}}));
  visitor.leaf({"quant", "storage of the frozen linear weights"},
               choice_leaf(model.quant,
                           {{"none", BaseQuantization::kNone}, {"nf4", BaseQuantization::kNf4}}));
  visitor.leaf({"double_quant", "with nf4: quantise the scales too"},
               flag_leaf(model.double_quant));
  visitor.leaf({"compute", "number type; auto is fp32 on the CPU and bf16 on CUDA"},
               choice_leaf(model.compute, {{"auto", ComputeType::kAuto},
                                           {"fp32", ComputeType::kFp32},
                                           {"bf16", ComputeType::kBf16}}));
}

void visit_adalora(AdaptRule& rule, ConfigVisitor& visitor) {
  AdaLoraSection& adalora = rule.adalora;
  visitor.leaf({"init_rank", "rank of each matrix at the start", false,
                rule.from ? "the adapter of `from` brings its own" : ""},
               integer_leaf(adalora.init_rank, {.min = 1, .max = kMaxRank}));
  visitor.leaf({"target_rank", "mean rank of the matrices at the end"},
               integer_leaf(adalora.target_rank, {.min = 1, .max = kMaxRank}));
  visitor.leaf({"warmup", "at full rank; below 1: fraction of all steps, otherwise steps"},
               warmup_leaf(adalora.warmup));
  visitor.leaf({"final", "at the end with one fixed choice; likewise"}, warmup_leaf(adalora.final));
  visitor.leaf({"interval", "steps between two choices"},
               integer_leaf(adalora.interval, kAtLeastOne));
  visitor.leaf({"beta1", "moving average of the sensitivity"}, real_leaf(adalora.beta1, kInner));
  visitor.leaf({"beta2", "moving average of its uncertainty"}, real_leaf(adalora.beta2, kInner));
  visitor.leaf({"orth_weight", "of the regulariser, the mean of ||A A^T - I|| and ||B^T B - I||"},
               real_leaf(adalora.orth_weight, kNotNegativeReal));
}

void visit_galore(GaLoreSection& galore, ConfigVisitor& visitor) {
  visitor.leaf({"rank", "of the projected gradients"},
               integer_leaf(galore.rank, {.min = 1, .max = kMaxRank}));
  visitor.leaf({"refresh", "steps between two computations of a basis"},
               integer_leaf(galore.refresh, kAtLeastOne));
  visitor.leaf({"scale", "of the updates"}, real_leaf(galore.scale, kPositive));
  visitor.leaf({"projection", "sides of a gradient (out, in); std: the smaller state"},
               choice_leaf(galore.projection, {{"std", ProjectionType::kStd},
                                               {"reverse_std", ProjectionType::kReverseStd},
                                               {"left", ProjectionType::kLeft},
                                               {"right", ProjectionType::kRight},
                                               {"full", ProjectionType::kFull}}));
  visitor.leaf({"exact", "singular value decomposition, not subspace iteration: slow"},
               flag_leaf(galore.exact));
  visitor.leaf({"rotate_moments", "take the first moment over into a new basis; optim adamw"},
               flag_leaf(galore.rotate_moments));
  visitor.leaf({"weights",
                "stored type; bf16: half the memory, updates rounded stochastically; "
                "auto: fp32 on the CPU, with model.compute bf16 bf16"},
               choice_leaf(galore.weights, {{"auto", GaLoreWeights::kAuto},
                                            {"fp32", GaLoreWeights::kFp32},
                                            {"bf16", GaLoreWeights::kBf16}}));
}

void visit_adapt_rule(AdaptRule& rule, ConfigVisitor& visitor) {
  visitor.leaf({"match",
                "all-linear, or one or several globs on module names "
                "(\"model.layers.*.self_attn.{q,v}_proj\")"},
               patterns_leaf(rule.match));
  visitor.leaf({"method", "adapters, the weights themselves, or nothing"},
               choice_leaf(rule.method, {{"lora", AdaptMethod::kLora},
                                         {"dora", AdaptMethod::kDora},
                                         {"adalora", AdaptMethod::kAdaLora},
                                         {"galore", AdaptMethod::kGaLore},
                                         {"full", AdaptMethod::kFull},
                                         {"frozen", AdaptMethod::kFrozen}}));
  const std::string no_adapter = rule.has_adapter() ? "" : "method has no adapter";
  visitor.leaf({"from", "start from this PEFT adapter folder, with its rank, alpha and rslora",
                false, no_adapter},
               optional_leaf(rule.from, text_leaf));
  const std::string not_here =
      no_adapter.empty() && rule.from ? "the adapter of `from` brings its own" : no_adapter;
  const bool adalora = rule.method == AdaptMethod::kAdaLora;
  visitor.leaf({"rank", "rank of A and B", false,
                adalora ? "method adalora has adalora.init_rank" : not_here},
               integer_leaf(rule.rank, {.min = 1, .max = kMaxRank}));
  visitor.leaf({"alpha", "scale of the adapter: alpha / rank", false, not_here},
               real_leaf(rule.alpha, kPositive));
  visitor.leaf({"rslora", "scale alpha / sqrt(rank) instead", false,
                adalora ? "method adalora scales by alpha / init_rank" : not_here},
               flag_leaf(rule.rslora));
  visitor.leaf(
      {"dropout", "on the adapter's input, in training; 0 with method dora", false, no_adapter},
      real_leaf(rule.dropout, kFraction));
  visitor.leaf({"lr_ratio_b", "LoRA+: learning rate of B over that of A", false, no_adapter},
               real_leaf(rule.lr_ratio_b, kPositive));
  visitor.section(
      {"adalora", "which singular values stay", false, adalora ? "" : "method is not adalora"},
      [&] { visit_adalora(rule, visitor); });
  visitor.section({"galore", "subspace of the gradients", false,
                   rule.method == AdaptMethod::kGaLore ? "" : "method is not galore"},
                  [&] { visit_galore(rule.galore, visitor); });
}

void visit_data_source(DataSource& source, ConfigVisitor& visitor) {
  visitor.leaf({"path", "JSON lines, or one JSON array", true}, text_leaf(source.path));
  visitor.leaf({"format", "what a record holds"},
               choice_leaf(source.format, {{"prompt-completion", RecordFormat::kPromptCompletion},
                                           {"alpaca", RecordFormat::kAlpaca},
                                           {"text", RecordFormat::kText},
                                           {"tokens", RecordFormat::kTokens}}));
  visitor.leaf({"weight", "times each record is taken per epoch; 0.5 keeps every second"},
               real_leaf(source.weight, {.min = 0.0, .max = 1000.0, .min_allowed = false}));
}

void visit_sources(const ConfigKey& key, std::vector<DataSource>& sources, ConfigVisitor& visitor) {
  visitor.list(
      key, sources.size(), [&](size_t size) { sources.assign(size, DataSource{}); },
      [&](size_t i) { visit_data_source(sources[i], visitor); });
}

void visit_data(DataSection& data, ConfigVisitor& visitor) {
  visit_sources({"train", "what to train on", true}, data.train, visitor);
  visit_sources({"eval", "what to evaluate on"}, data.eval, visitor);
  visitor.leaf({"shuffle", "a new order each epoch; false: rows in file order"},
               flag_leaf(data.shuffle));
  visitor.leaf({"template", "the text of a record as it is; alpaca records have their own"},
               choice_leaf(data.prompt_template, {{"none", PromptTemplate::kNone}}));
  visitor.leaf({"seq_len", "most tokens in a row"},
               integer_leaf(data.seq_len, {.min = 2, .max = 16'777'216}));
  visitor.leaf({"long_samples", "samples above seq_len; required when there is one"},
               choice_leaf(data.long_samples, {{"drop", LongSamples::kDrop},
                                               {"truncate", LongSamples::kTruncate},
                                               {"split", LongSamples::kSplit},
                                               {"error", LongSamples::kError}}));
  visitor.leaf({"packing", "several samples in a row of seq_len; none sees another"},
               flag_leaf(data.packing));
  visitor.leaf({"train_on_prompt", "learn the prompts too"}, flag_leaf(data.train_on_prompt));
}

void visit_train(TrainSection& train, ConfigVisitor& visitor) {
  visitor.leaf({"steps", "optimizer steps; or give epochs"},
               optional_leaf(train.steps, integer_leaf, kAtLeastOne));
  visitor.leaf(
      {"epochs", "passes over the data; or give steps"},
      optional_leaf(train.epochs, real_leaf, {.min = 0.0, .max = 1e6, .min_allowed = false}));
  visitor.leaf({"global_batch", "rows per optimizer step, over all ranks"},
               integer_leaf(train.global_batch, kAtLeastOne));
  visitor.leaf({"micro_batch", "rows per forward pass of one rank"},
               integer_leaf(train.micro_batch, kAtLeastOne));
  visitor.leaf({"seed", "of data order, initialisation and dropout"},
               integer_leaf(train.seed, {.min = 0}));
  visitor.leaf(
      {"recompute", "what backward computes again to save memory; auto: as little as fits"},
      choice_leaf(train.recompute, {{"auto", std::nullopt},
                                    {"none", Recompute::kNone},
                                    {"selective", Recompute::kSelective},
                                    {"full", Recompute::kFull}}));
  visitor.leaf({"deterministic", "the same bits in every run on CUDA, slower; the CPU always is"},
               flag_leaf(train.deterministic));
}

void visit_optim(OptimSection& optim, ConfigVisitor& visitor) {
  visitor.leaf({"name",
                "adamw: fp32 moments; adamw8bit: 8-bit moments, a quarter of their memory; "
                "sgd: no moments, or one"},
               choice_leaf(optim.name, {{"adamw", OptimizerName::kAdamW},
                                        {"adamw8bit", OptimizerName::kAdamW8bit},
                                        {"sgd", OptimizerName::kSgd}}));
  visitor.leaf({"lr", "peak learning rate"}, real_leaf(optim.lr, kPositive));
  visitor.leaf({"schedule", "after the warm-up"},
               choice_leaf(optim.schedule, {{"constant", ScheduleKind::kConstant},
                                            {"linear", ScheduleKind::kLinear},
                                            {"cosine", ScheduleKind::kCosine}}));
  visitor.leaf({"warmup", "below 1: fraction of all steps; otherwise a number of steps"},
               warmup_leaf(optim.warmup));
  visitor.leaf({"min_lr", "learning rate at the end of the schedule"},
               real_leaf(optim.min_lr, kNotNegativeReal));
  const bool is_sgd = optim.name == OptimizerName::kSgd;
  const std::string of_adamw = is_sgd ? "optim.name is sgd" : "";
  visitor.leaf({"betas", "decay rates of the moments", false, of_adamw},
               real_pair_leaf(optim.betas, kFraction));
  visitor.leaf({"eps", "added to the root of the second moment", false, of_adamw},
               real_leaf(optim.eps, kPositive));
  visitor.leaf({"momentum", "share of the last step's direction that is kept; 0: no state", false,
                is_sgd ? "" : "optim.name is not sgd"},
               real_leaf(optim.momentum, kFraction));
  visitor.leaf({"weight_decay", "decoupled, as in AdamW"},
               real_leaf(optim.weight_decay, kNotNegativeReal));
  visitor.leaf({"max_grad_norm", "clip gradients to this global norm; 0: never"},
               real_leaf(optim.max_grad_norm, kNotNegativeReal));
}

void visit_reporting(TrainConfig& config, ConfigVisitor& visitor) {
  visitor.section({"eval", "evaluation during training, on data.eval"}, [&] {
    visitor.leaf({"every", "steps between evaluations; 0: only after the last step"},
                 integer_leaf(config.eval.every, kNotNegative));
    visitor.leaf({"batches", "global batches per evaluation; 0: all of data.eval"},
                 integer_leaf(config.eval.batches, kNotNegative));
  });
  visitor.section({"checkpoint", "what the run leaves behind"}, [&] {
    visitor.leaf({"dir", "run folder: metrics, log, charts, checkpoints, adapter"},
                 text_leaf(config.checkpoint.dir));
    visitor.leaf({"every", "steps between checkpoints; 0: only at the end"},
                 integer_leaf(config.checkpoint.every, kNotNegative));
    visitor.leaf({"every_minutes", "another one when the last is so old; 0: never"},
                 real_leaf(config.checkpoint.every_minutes, {.min = 0.0, .max = 1e6}));
    visitor.leaf({"keep", "newest checkpoints that stay"},
                 integer_leaf(config.checkpoint.keep, {.min = 1, .max = 1000}));
    visitor.leaf({"best", "the one with the least evaluation loss stays too"},
                 flag_leaf(config.checkpoint.best));
  });
  visitor.section({"log", "console and metrics files"}, [&] {
    visitor.leaf({"every", "steps between lines"}, integer_leaf(config.log.every, kAtLeastOne));
  });
  visitor.section({"guard", "what ends a run that gets nowhere"}, [&] {
    visitor.leaf({"nan", "a loss or gradient that is not finite: end the run, or skip the update"},
                 choice_leaf(config.guard.nan,
                             {{"stop", GuardAction::kStop}, {"skip", GuardAction::kSkip}}));
    visitor.leaf({"spike", "a loss or gradient norm far above the last ones"},
                 choice_leaf(config.guard.spike, {{"warn", GuardAction::kWarn},
                                                  {"skip", GuardAction::kSkip},
                                                  {"stop", GuardAction::kStop}}));
    visitor.leaf({"spike_sigma", "how far, in standard deviations; 0: there are no spikes"},
                 real_leaf(config.guard.spike_sigma, {.min = 0.0, .max = 1e6}));
    visitor.leaf({"max_skips", "updates skipped in a row; one more ends the run"},
                 integer_leaf(config.guard.max_skips, {.min = 1}));
    visitor.leaf({"hang_seconds", "several ranks: most time for one operation; 0: any time"},
                 integer_leaf(config.guard.hang_seconds, {.min = 0, .max = 86'400}));
    visitor.leaf({"replica_hash_every",
                  "several ranks: steps between comparisons of what each holds; 0: never"},
                 integer_leaf(config.guard.replica_hash_every, kNotNegative));
  });
}

}  // namespace

void visit_config(TrainConfig& config, ConfigVisitor& visitor) {
  visitor.leaf({"device", "where to compute; auto: cuda when there is a GPU and one rank"},
               choice_leaf(config.device, {{"auto", DeviceChoice::kAuto},
                                           {"cpu", DeviceChoice::kCpu},
                                           {"cuda", DeviceChoice::kCuda}}));
  visitor.section({"model", "the base model"}, [&] { visit_model(config.model, visitor); });
  visitor.list(
      {"adapt", "what trains, and how: the first matching rule wins, the rest is frozen"},
      config.adapt.size(), [&](size_t size) { config.adapt.assign(size, AdaptRule{}); },
      [&](size_t i) { visit_adapt_rule(config.adapt[i], visitor); });
  visitor.section({"data", "samples and how rows are made of them"},
                  [&] { visit_data(config.data, visitor); });
  visitor.section({"train", "length, batch and seed"}, [&] { visit_train(config.train, visitor); });
  visitor.section({"optim", "optimizer and learning rate"},
                  [&] { visit_optim(config.optim, visitor); });
  visitor.section({"parallel", "data degree = ranks / tensor"}, [&] {
    visitor.leaf({"tensor",
                  "ranks that share one copy of the model: each holds a part of every "
                  "matrix; divides the number of attention heads"},
                 integer_leaf(config.parallel.tensor, {.min = 1}));
    visitor.leaf({"shard_base",
                  "data: the 4-bit base is split over the data ranks too, and gathered "
                  "block by block"},
                 choice_leaf(config.parallel.shard_base, {{"none", false}, {"data", true}}));
  });
  visit_reporting(config, visitor);
}

}  // namespace rankwise
