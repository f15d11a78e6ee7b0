// SPDX-License-Identifier: Apache-2.0
#include "launch/demo_corpus.h"

#include <fmt/format.h>

#include <array>
#include <string_view>

#include "runtime/rng.h"

namespace rankwise {
namespace {

constexpr std::array<std::string_view, 16> kAdjectives = {
    "Amber", "Brass", "Copper", "Dusty",  "Early",  "Funny", "Golden", "Hidden",
    "Ivory", "Jolly", "Lucky",  "Mellow", "Nimble", "Paper", "Rusty",  "Silver"};
constexpr std::array<std::string_view, 16> kNouns = {
    "Anchor", "Badger",  "Candle", "Dragon", "Fiddle", "Garden", "Heron",  "Island",
    "Kettle", "Lantern", "Magpie", "Needle", "Otter",  "Pepper", "Saddle", "Wagon"};
constexpr std::array<std::string_view, 12> kFoods = {"ramen",     "tacos",    "curry",   "pizza",
                                                     "dumplings", "pasta",    "sushi",   "falafel",
                                                     "stew",      "pancakes", "noodles", "burgers"};
constexpr std::array<std::string_view, 6> kKinds = {"cafe",  "pub",    "bistro",
                                                    "diner", "tavern", "canteen"};

// How a slot value sounds in a sentence: before a noun, and after "prices are".
struct Price {
  std::string_view slot, adjective, noun;
};
constexpr std::array<Price, 3> kPrices = {
    {{"low", "cheap", "low"}, {"fair", "mid-priced", "fair"}, {"high", "expensive", "high"}}};
struct Area {
  std::string_view slot, phrase;
};
constexpr std::array<Area, 8> kAreas = {{{"river", "by the river"},
                                         {"station", "near the station"},
                                         {"harbour", "at the harbour"},
                                         {"market", "on the market square"},
                                         {"old town", "in the old town"},
                                         {"park", "beside the park"},
                                         {"museum", "behind the museum"},
                                         {"castle", "below the castle"}}};

// Indices into the tables above.
struct Draw {
  size_t adjective, noun, food, kind, price, area;
};

// One name in eight is kept for evaluation.
bool is_held_out(const Draw& draw) { return (draw.adjective * 3 + draw.noun) % 8 == 0; }

// Every attempt takes six numbers of the stream until the name is of the wanted kind.
Draw draw_place(const Rng& rng, bool held_out) {
  for (uint64_t at = 0;; at += 6) {
    const Draw draw = {rng.below(at, kAdjectives.size()), rng.below(at + 1, kNouns.size()),
                       rng.below(at + 2, kFoods.size()),  rng.below(at + 3, kKinds.size()),
                       rng.below(at + 4, kPrices.size()), rng.below(at + 5, kAreas.size())};
    if (is_held_out(draw) == held_out) return draw;
  }
}

DemoPlace place_of(const Draw& draw) {
  return {fmt::format("{} {}", kAdjectives[draw.adjective], kNouns[draw.noun]),
          std::string(kFoods[draw.food]), std::string(kPrices[draw.price].slot),
          std::string(kAreas[draw.area].slot)};
}

constexpr uint64_t kSentences = 6;

std::string sentence(const Draw& draw, uint64_t form) {
  const std::string name = place_of(draw).name;
  const std::string_view food = kFoods[draw.food];
  const std::string_view kind = kKinds[draw.kind];
  const Price& price = kPrices[draw.price];
  const std::string_view area = kAreas[draw.area].phrase;
  switch (form) {
    case 0:
      return fmt::format("{} is the {} {} {} that serves {}.", name, price.adjective, kind, area,
                         food);
    case 1:
      return fmt::format("For {} {}, try the {} called {}: its prices are {}.", food, area, kind,
                         name, price.noun);
    case 2:
      return fmt::format("You can eat {} {} at {}, a {} with {} prices.", food, area, name, kind,
                         price.noun);
    case 3:
      return fmt::format("Prices are {} at {}, the {} {} known for its {}.", price.noun, name, kind,
                         area, food);
    case 4:
      return fmt::format("Who wants {} {} goes to {} {}, a {}.", price.adjective, food, name, area,
                         kind);
    default:
      return fmt::format("The {} {} sells {} {}; it is {}.", kind, area, price.adjective, food,
                         name);
  }
}

DemoTaskRow task_row(const Rng& rng, bool held_out) {
  const Draw draw = draw_place(rng, held_out);
  // Numbers from 2^32 on belong to the wording: the draw above never reaches them.
  const uint64_t form = rng.below(uint64_t{1} << 32, kSentences);
  return {sentence(draw, form) + "\nslots: ", demo_slots(place_of(draw))};
}

// A sentence about a place and its facts once more: repetition is what teaches a model to look
// back.
std::string paragraph(const Rng& rng) {
  const Draw draw = draw_place(rng, /*held_out=*/false);
  const DemoPlace place = place_of(draw);
  return fmt::format("{} In short: {}, {}, {}, {} prices. That is {}.",
                     sentence(draw, rng.below(uint64_t{1} << 32, kSentences)), place.area,
                     place.food, place.name, place.price, place.name);
}

}  // namespace

std::string demo_slots(const DemoPlace& place) {
  return fmt::format("{} | {} | {} | {}", place.name, place.food, place.price, place.area);
}

DemoCorpus make_demo_corpus(const DemoSizes& sizes, uint64_t seed) {
  DemoCorpus corpus;
  for (int64_t i = 0; i < sizes.paragraphs; ++i) {
    corpus.paragraphs.push_back(paragraph(Rng(seed, "demo.paragraph", static_cast<uint64_t>(i))));
  }
  for (int64_t i = 0; i < sizes.train_rows; ++i) {
    corpus.train.push_back(task_row(Rng(seed, "demo.train", static_cast<uint64_t>(i)), false));
  }
  for (int64_t i = 0; i < sizes.eval_rows; ++i) {
    corpus.eval.push_back(task_row(Rng(seed, "demo.eval", static_cast<uint64_t>(i)), true));
  }
  return corpus;
}

std::string demo_model_config() {
  // initializer_range: narrow layers start with larger weights than the usual 0.02 of wide ones.
  return R"({
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 264,
  "hidden_size": 128,
  "intermediate_size": 352,
  "num_hidden_layers": 4,
  "num_attention_heads": 8,
  "num_key_value_heads": 4,
  "hidden_act": "silu",
  "max_position_embeddings": 1024,
  "rms_norm_eps": 1e-05,
  "rope_theta": 10000.0,
  "initializer_range": 0.08,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "tie_word_embeddings": true,
  "torch_dtype": "float32"
}
)";
}

}  // namespace rankwise
