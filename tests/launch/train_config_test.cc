// SPDX-License-Identifier: Apache-2.0
#include "launch/config/train_config.h"

#include <gtest/gtest.h>

#include "runtime/errors.h"
#include "tests/support/error_of.h"

namespace rankwise {
namespace {

constexpr const char* kMinimal =
    "model: {path: m}\n"
    "data: {train: [{path: t.jsonl}]}\n"
    "train: {steps: 10}\n";

TrainConfig with(const std::vector<std::string>& overrides) {
  return parse_train_config(kMinimal, "run.yaml", overrides);
}

// The message of the ConfigError; empty when the configuration is accepted.
std::string refusal(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  try {
    parse_train_config(yaml, "run.yaml", overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(TrainConfig, ThreeKeysSufficeAndTheRestIsDefault) {
  const TrainConfig config = with({});
  EXPECT_EQ(config.model.path, "m");
  EXPECT_EQ(config.model.quant, BaseQuantization::kNf4);
  ASSERT_EQ(config.adapt.size(), 1u);
  EXPECT_EQ(config.adapt[0], AdaptRule{});
  ASSERT_EQ(config.data.train.size(), 1u);
  EXPECT_EQ(config.data.train[0].format, RecordFormat::kPromptCompletion);
  EXPECT_EQ(config.train.steps, 10);
  EXPECT_EQ(config.train.epochs, std::nullopt);
  EXPECT_EQ(config.data.long_samples, LongSamples::kUnset);
  EXPECT_EQ(config.device, DeviceChoice::kAuto);
  EXPECT_EQ(config.train.recompute, std::nullopt);
  EXPECT_FALSE(config.train.deterministic);
}

TEST(TrainConfig, DeviceNumberTypeAndRecomputationPrintAndParseBack) {
  const TrainConfig config =
      with({"device=cuda", "model.compute=bf16", "train.recompute=selective"});
  EXPECT_EQ(config.device, DeviceChoice::kCuda);
  EXPECT_EQ(config.model.compute, ComputeType::kBf16);
  EXPECT_EQ(config.train.recompute, Recompute::kSelective);
  EXPECT_EQ(parse_train_config(print_config(config), "printed", {}), config);
  EXPECT_EQ(with({"train.recompute=auto"}).train.recompute, std::nullopt);
  EXPECT_EQ(config_to_json(with({}))["train"]["recompute"], "auto");
}

TEST(TrainConfig, ReadsEveryKey) {
  const TrainConfig config = parse_train_config(R"(
device: cpu
model: {path: "models/a b", init: random, quant: none, double_quant: false, compute: fp32}
adapt:
  - {match: ["lm_head", "*.{q,v}_proj"], method: lora, rank: 4, alpha: 8, dropout: 0.1, rslora: true, lr_ratio_b: 16}
  - {match: "*.k_proj", from: adapters/k, dropout: 0.2}
  - {match: "*norm*", method: full}
  - {match: "*", method: frozen}
data:
  train: [{path: a.jsonl, format: alpaca, weight: 0.5}, {path: b.jsonl, format: tokens}]
  eval: [{path: c.jsonl, format: text}]
  shuffle: false
  template: none
  seq_len: 128
  long_samples: truncate
  packing: false
  train_on_prompt: true
train: {epochs: 2.5, global_batch: 6, micro_batch: 3, seed: 7, recompute: full, deterministic: true}
optim: {name: adamw, lr: 1e-3, schedule: linear, warmup: 20, min_lr: 1e-5, betas: [0.8, 0.95], eps: 1e-6, weight_decay: 0.1, max_grad_norm: 0}
parallel: {tensor: 1}
eval: {every: 5, batches: 0}
checkpoint: {dir: runs/x, every: 7, every_minutes: 2.5, keep: 2, best: false}
log: {every: 2}
)",
                                                "run.yaml", {});
  EXPECT_EQ(config.device, DeviceChoice::kCpu);
  EXPECT_EQ(config.model.path, "models/a b");
  EXPECT_EQ(config.model.init, ModelInit::kRandom);
  EXPECT_EQ(config.model.quant, BaseQuantization::kNone);
  EXPECT_FALSE(config.model.double_quant);
  EXPECT_EQ(config.model.compute, ComputeType::kFp32);
  ASSERT_EQ(config.adapt.size(), 4u);
  EXPECT_EQ(config.adapt[0].match, (std::vector<std::string>{"lm_head", "*.{q,v}_proj"}));
  EXPECT_EQ(config.adapt[0].rank, 4);
  EXPECT_EQ(config.adapt[0].alpha, 8.0);
  EXPECT_EQ(config.adapt[0].dropout, 0.1);
  EXPECT_TRUE(config.adapt[0].rslora);
  EXPECT_EQ(config.adapt[0].lr_ratio_b, 16.0);
  EXPECT_EQ(config.adapt[1].from, "adapters/k");
  EXPECT_EQ(config.adapt[2].method, AdaptMethod::kFull);
  EXPECT_EQ(config.adapt[3].method, AdaptMethod::kFrozen);
  EXPECT_EQ(config.data.train[0].weight, 0.5);
  EXPECT_EQ(config.data.train[1].format, RecordFormat::kTokens);
  EXPECT_EQ(config.data.eval[0].path, "c.jsonl");
  EXPECT_FALSE(config.data.shuffle);
  EXPECT_EQ(config.data.seq_len, 128);
  EXPECT_EQ(config.data.long_samples, LongSamples::kTruncate);
  EXPECT_FALSE(config.data.packing);
  EXPECT_TRUE(config.data.train_on_prompt);
  EXPECT_EQ(config.train.epochs, 2.5);
  EXPECT_EQ(config.train.global_batch, 6);
  EXPECT_EQ(config.train.micro_batch, 3);
  EXPECT_EQ(config.train.seed, 7);
  EXPECT_EQ(config.train.recompute, Recompute::kFull);
  EXPECT_TRUE(config.train.deterministic);
  EXPECT_EQ(config.optim.lr, 1e-3);
  EXPECT_EQ(config.optim.schedule, ScheduleKind::kLinear);
  EXPECT_EQ(config.optim.warmup.steps(1000), 20);
  EXPECT_EQ(config.optim.min_lr, 1e-5);
  EXPECT_EQ(config.optim.betas, (std::array<double, 2>{0.8, 0.95}));
  EXPECT_EQ(config.optim.eps, 1e-6);
  EXPECT_EQ(config.optim.weight_decay, 0.1);
  EXPECT_EQ(config.optim.max_grad_norm, 0.0);
  EXPECT_EQ(config.eval.every, 5);
  EXPECT_EQ(config.eval.batches, 0);
  EXPECT_EQ(config.checkpoint.dir, "runs/x");
  EXPECT_EQ(config.checkpoint.every, 7);
  EXPECT_EQ(config.checkpoint.every_minutes, 2.5);
  EXPECT_EQ(config.checkpoint.keep, 2);
  EXPECT_FALSE(config.checkpoint.best);
  EXPECT_EQ(config.log.every, 2);
  EXPECT_EQ(parse_train_config(print_config(config), "printed", {}), config);
}

TEST(TrainConfig, PrintedDefaultsParseBackAndExplainEveryKey) {
  const TrainConfig config = with({});
  const std::string printed = print_config(config);
  EXPECT_EQ(parse_train_config(printed, "printed", {}), config) << printed;
  for (size_t begin = 0; begin < printed.size(); begin = printed.find('\n', begin) + 1) {
    const std::string line = printed.substr(begin, printed.find('\n', begin) - begin);
    EXPECT_NE(line.find(" # "), std::string::npos) << line;
  }
}

TEST(TrainConfig, AwkwardTextSurvivesPrinting) {
  for (const std::string path :
       {"true", "null", "1e-3", "-", "a: b", "x # y", "it's", "\"q\"", "back\\slash", "~", "[x]",
        "{a", "*a", "&b", "caf\xc3\xa9", "a,b"}) {
    TrainConfig config = with({});
    config.model.path = path;
    config.adapt[0].match = {path == "{a" ? "x" : path, "y"};
    const std::string printed = print_config(config);
    EXPECT_EQ(parse_train_config(printed, "printed", {}), config) << printed;
  }
}

TEST(TrainConfig, JsonHoldsTheResolvedTree) {
  const Json json = config_to_json(with({"adapt=[{method: frozen}]"}));
  EXPECT_EQ(json["train"]["steps"], 10);
  EXPECT_TRUE(json["train"]["epochs"].is_null());
  EXPECT_EQ(json["adapt"][0]["match"], "all-linear");
  EXPECT_FALSE(json["adapt"][0].contains("rank"));
  EXPECT_EQ(json["optim"]["betas"], Json({0.9, 0.999}));
}

TEST(TrainConfig, OverridesWinOverTheFile) {
  const TrainConfig config = with({"adapt.0.rank=3", "optim.lr=2e-4", "train.steps=null",
                                   "train.epochs=2", "data.train.0.weight=2"});
  EXPECT_EQ(config.adapt[0].rank, 3);
  EXPECT_EQ(config.train.steps, std::nullopt);
  EXPECT_EQ(config.train.epochs, 2.0);
  EXPECT_EQ(config.data.train[0].weight, 2.0);
}

TEST(TrainConfig, WarmupIsAFractionBelowOneAndStepsFromOne) {
  EXPECT_EQ(Warmup{0.03}.steps(1000), 30);
  EXPECT_EQ(Warmup{0.0}.steps(1000), 0);
  EXPECT_EQ(Warmup{1.0}.steps(1000), 1);
  EXPECT_EQ(Warmup{100.0}.steps(10), 100);
}

TEST(TrainConfig, UnknownKeysAreRefusedWithPlaceAndNearestName) {
  EXPECT_EQ(refusal("model: {path: m}\ndata: {train: [{path: t}]}\ntrain: {steps: 1}\n"
                    "optim:\n  lrr: 1e-3\n"),
            "run.yaml:5:3: optim.lrr: unknown key, did you mean 'lr'?");
  EXPECT_EQ(refusal("modle: {path: m}\n"),
            "run.yaml:1:1: modle: unknown key, did you mean 'model'?");
  EXPECT_EQ(refusal(kMinimal, {"adapt.0.rnak=8"}),
            "command line: adapt.0.rnak: unknown key, did you mean 'rank'?");
  EXPECT_EQ(refusal(kMinimal, {"log.tensorboard=true"}),
            "command line: log.tensorboard: unknown key, valid here: every");
}

TEST(TrainConfig, OptionsOfLaterVersionsAreRefusedNotIgnored) {
  for (const char* option :
       {"adapt.0.method=qalora", "model.quant=int4", "model.compute=fp8", "device=rocm",
        "optim.name=lion", "data.template=chatml", "data.train.0.format=sharegpt"}) {
    const std::string message = refusal(kMinimal, {option});
    EXPECT_NE(message.find("is not available in this version"), std::string::npos)
        << option << " -> " << message;
    EXPECT_NE(message.find("(available: "), std::string::npos) << message;
  }
  for (const char* option :
       {"parallel.tensor=0", "parallel.shard_base=tensor", "guard.nan=warn", "guard.spike=off",
        "guard.spike_sigma=-1", "guard.max_skips=0", "guard.replica_hash_every=-1",
        "checkpoint.every=-1", "checkpoint.keep=0", "log.tensorboard=false", "adapt.0.init=default",
        "adapt.0.adalora={target_rank: 8}", "adapt.0.galore={rank: 8}", "train.micro_batch=auto"}) {
    EXPECT_NE(refusal(kMinimal, {option}), "") << option;
  }
}

TEST(TrainConfig, WrongTypesAreRefused) {
  const std::pair<const char*, const char*> vectors[] = {
      {"train.steps=1.5", "train.steps: expected an integer, got '1.5'"},
      {"train.steps=1e3", "train.steps: expected an integer, got '1e3'"},
      {"train.steps=\"10\"", "train.steps: expected an integer, got the text \"10\""},
      {"train.steps=0x10", "train.steps: expected an integer, got '0x10'"},
      {"train.steps=[1]", "train.steps: expected an integer, got a list"},
      {"train.steps=99999999999999999999", "train.steps: '99999999999999999999' does not fit"},
      {"optim.lr=fast", "optim.lr: expected a number, got 'fast'"},
      {"optim.lr=1e-3x", "optim.lr: expected a number, got '1e-3x'"},
      {"optim.lr=+-1", "optim.lr: expected a number, got '+-1'"},
      {"optim.lr=~", "optim.lr: expected a number, got nothing"},
      {"optim.lr={a: 1}", "optim.lr: expected a number, got a section"},
      {"optim.betas=0.9", "optim.betas: expected a list of two numbers, got '0.9'"},
      {"optim.betas=[0.9]", "optim.betas: expected a list of two numbers, got a list"},
      {"data.packing=yes", "data.packing: expected true or false, got 'yes'"},
      {"data.packing=1", "data.packing: expected true or false, got '1'"},
      {"data.packing=\"true\"", "data.packing: expected true or false, got the text \"true\""},
      {"data.train=t.jsonl", "data.train: expected a list, got 't.jsonl'"},
      {"data.train=[t.jsonl]", "data.train.0: expected a section, got 't.jsonl'"},
      {"optim=adamw", "optim: expected a section, got 'adamw'"},
      {"log=~", "log: expected a section, got nothing"},
      {"model.path=[a]", "model.path: expected text, got a list"},
      {"model.path=\"\"", "model.path: must not be empty"},
      {"optim.schedule=[cosine]",
       "optim.schedule: expected constant | linear | cosine, got a list"},
      {"optim.schedule=cosin",
       "optim.schedule: 'cosin' is not available in this version, did you "
       "mean 'cosine'?"},
      {"adapt.0.match=[]", "adapt.0.match: must not be empty"},
      {"adapt.0.match=\"{q\"", "adapt.0.match: unbalanced braces"},
  };
  for (const auto& [option, expected] : vectors) {
    const std::string message = refusal(kMinimal, {option});
    EXPECT_TRUE(message.starts_with(std::string("command line: ") + expected))
        << option << " -> " << message;
  }
}

TEST(TrainConfig, NumbersMustBeFiniteAndInRange) {
  for (const char* value : {".inf", "-.inf", ".nan", "inf", "nan", "1e999"}) {
    const std::string message = refusal(kMinimal, {std::string("optim.lr=") + value});
    EXPECT_NE(message.find("must be a finite number"), std::string::npos) << message;
  }
  for (const char* option : {"train.steps=0",
                             "train.steps=-1",
                             "train.epochs=0",
                             "train.global_batch=0",
                             "train.micro_batch=0",
                             "train.seed=-1",
                             "optim.lr=0",
                             "optim.lr=-1e-4",
                             "optim.betas=[1, 0.9]",
                             "optim.betas=[0.9, -0.1]",
                             "optim.eps=0",
                             "optim.weight_decay=-1",
                             "optim.max_grad_norm=-1",
                             "optim.warmup=-0.1",
                             "optim.warmup=1.5",
                             "adapt.0.rank=0",
                             "adapt.0.rank=65537",
                             "adapt.0.alpha=0",
                             "adapt.0.dropout=1",
                             "adapt.0.lr_ratio_b=0",
                             "data.seq_len=1",
                             "data.train.0.weight=0",
                             "eval.every=-1",
                             "eval.batches=-1",
                             "log.every=0",
                             "data.train=[]"}) {
    EXPECT_NE(refusal(kMinimal, {option}).find("must "), std::string::npos)
        << option << " -> " << refusal(kMinimal, {option});
  }
  EXPECT_EQ(refusal(kMinimal, {"adapt.0.rank=65537"}),
            "command line: adapt.0.rank: must be at least 1 and at most 65536, got 65537");
}

TEST(TrainConfig, KeysWithoutUseAreRefused) {
  EXPECT_EQ(refusal(kMinimal, {"adapt.0.method=full", "adapt.0.rank=8"}),
            "command line: adapt.0.rank: has no use: method has no adapter");
  EXPECT_EQ(refusal(kMinimal, {"adapt.0.from=x", "adapt.0.alpha=8"}),
            "command line: adapt.0.alpha: has no use: the adapter of `from` brings its own");
}

TEST(TrainConfig, RequiredKeysAreListedTogether) {
  EXPECT_EQ(refusal("log: {every: 1}\n"), "run.yaml: required: model.path, data.train");
  EXPECT_EQ(refusal("model: {path: m}\ndata: {train: [{format: text}]}\ntrain: {steps: 1}\n"),
            "run.yaml: required: data.train.0.path");
}

TEST(TrainConfig, RulesBetweenKeysNameThePlace) {
  const std::string base = "model: {path: m}\ndata: {train: [{path: t}]}\n";
  EXPECT_EQ(refusal(base), "run.yaml: train: one of steps and epochs is required");
  EXPECT_EQ(refusal(base + "train: {steps: 1, epochs: 2}\n"),
            "run.yaml:3:27: train.epochs: give steps or epochs, not both (null takes one away)");
  EXPECT_EQ(
      refusal(base + "train: {steps: 1, global_batch: 6, micro_batch: 4}\n"),
      "run.yaml:3:33: train.global_batch: must be a multiple of train.micro_batch (4), got 6");
  EXPECT_EQ(refusal(kMinimal, {"optim.lr=1e-4", "optim.min_lr=1e-3"}),
            "command line: optim.min_lr: must be at most optim.lr (0.0001), got 0.001");
  EXPECT_EQ(refusal(kMinimal, {"optim.name=adamw8bit"}), "");
  EXPECT_EQ(refusal(kMinimal, {"optim.name=adamw8bit", "adapt.0.method=adalora"}),
            "command line: optim.name: only adamw measures the importance that method "
            "adalora needs");
  EXPECT_EQ(refusal(kMinimal, {"optim.name=sgd", "optim.momentum=0.9"}), "");
  RW_EXPECT_HAS(refusal(kMinimal, {"optim.momentum=0.9"}), "optim.name is not sgd");
  RW_EXPECT_HAS(refusal(kMinimal, {"optim.name=sgd", "optim.eps=1e-6"}), "optim.name is sgd");
  const std::string galore = "adapt=[{method: galore, galore: {rotate_moments: true}}]";
  EXPECT_EQ(refusal(kMinimal, {galore}), "");
  EXPECT_EQ(refusal(kMinimal, {galore, "optim.name=adamw8bit"}),
            "command line: adapt.0.galore.rotate_moments: rotates the fp32 moment of optim.name: "
            "adamw, which this run does not use");
  EXPECT_EQ(refusal(kMinimal, {"adapt=[{match: a, method: adalora}, {method: galore}]"}),
            "command line: adapt: rules of method adalora and galore cannot share one run");
}

TEST(TrainConfig, RootMustHoldSections) {
  EXPECT_NE(refusal("- a\n"), "");
  EXPECT_NE(refusal("just text\n"), "");
  EXPECT_NE(refusal("~\n"), "");
  EXPECT_EQ(refusal(""), "run.yaml: the configuration is empty");
}

TEST(TrainConfig, DuplicateKeysAreRefused) {
  EXPECT_EQ(refusal("optim: {lr: 0.1, lr: 0.9}\n"),
            "run.yaml:1:18: key 'lr' is given twice, first at run.yaml:1:9");
}

}  // namespace
}  // namespace rankwise
