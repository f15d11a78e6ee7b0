// SPDX-License-Identifier: Apache-2.0
// DemoCorpus: a small made-up world of places to eat, as text to pretrain on and a task to
// fine-tune.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rankwise {

struct DemoPlace {
  std::string name;   // "Copper Kettle"
  std::string food;   // "ramen"
  std::string price;  // "low", "fair" or "high"
  std::string area;   // "harbour"
};

struct DemoSizes {
  int64_t paragraphs = 16000;
  int64_t train_rows = 1500;
  int64_t eval_rows = 200;
};

// The task: a sentence about a place in, "name | food | price | area" out. A name is an adjective
// and a noun; the pairs of the evaluation rows occur nowhere else, neither in the paragraphs nor in
// the training rows, so that a model cannot answer from memory.
struct DemoTaskRow {
  std::string prompt;
  std::string completion;
};

struct DemoCorpus {
  std::vector<std::string> paragraphs;  // each says the facts of one place twice
  std::vector<DemoTaskRow> train;
  std::vector<DemoTaskRow> eval;
};

// A pure function of its arguments, the same on every machine.
DemoCorpus make_demo_corpus(const DemoSizes& sizes, uint64_t seed);

// "Copper Kettle | ramen | low | harbour"
std::string demo_slots(const DemoPlace& place);

// config.json of a Llama small enough to pretrain on two CPU cores in about a minute; its tokens
// are those of the byte tokenizer.
std::string demo_model_config();

}  // namespace rankwise
