// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/json.h"
#include "tests/fuzz/hostile_inputs.h"

namespace rankwise::testing {
namespace {

// A small Llama with one key set to this JSON text.
std::string with(const std::string& key, const std::string& value) {
  Json config = Json::parse(R"({"model_type":"llama","vocab_size":32,"hidden_size":16,
    "intermediate_size":24,"num_hidden_layers":2,"num_attention_heads":4})");
  config.erase(key);
  std::string text = config.dump();
  text.pop_back();
  return text + ",\"" + key + "\":" + value + "}";
}

std::string rope(const std::string& fields) { return with("rope_scaling", "{" + fields + "}"); }

std::vector<HostileInput> size_cases() {
  return {
      {"Small", with("hidden_act", "\"silu\""), ""},
      {"ZeroLayers", with("num_hidden_layers", "0"), "num_hidden_layers: 0 is outside"},
      {"BillionsOfLayers", with("num_hidden_layers", "2147483647"), "is more than 10000"},
      {"VocabularyBeyondItsRange", with("vocab_size", "2147483648"), "vocab_size"},
      {"VocabularyOf64Bits", with("vocab_size", "18446744073709551615"), "vocab_size"},
      {"VocabularyBeyond64Bits", with("vocab_size", "18446744073709551616"), "vocab_size"},
      {"NegativeSize", with("hidden_size", "-16"), "hidden_size: -16 is outside"},
      {"RealSize", with("hidden_size", "16.0"), "hidden_size: expected an integer"},
      {"ExponentSize", with("hidden_size", "1e3"), "hidden_size: expected an integer"},
      {"TextSize", with("hidden_size", "\"16\""), "hidden_size: expected an integer"},
      {"NullSize", with("hidden_size", "null"), "hidden_size: missing"},
      {"ListForASize", with("hidden_size", "[" + repeated("1,", 400'000) + "1]"),
       "hidden_size: expected an integer, found"},
      {"TextOfAMegabyteForASize", with("hidden_size", "\"" + std::string(1 << 20, 'x') + "\""),
       "hidden_size: expected an integer, found"},
      {"LargestOfEverything",
       R"({"model_type":"llama","vocab_size":2147483647,"hidden_size":2147483647,
           "intermediate_size":2147483647,"num_hidden_layers":10000,"num_attention_heads":1,
           "head_dim":2147483646,"num_key_value_heads":1})",
       ""},
      {"HeadsThatOverflowTheirProduct",
       R"({"model_type":"llama","vocab_size":32,"hidden_size":2147483647,"intermediate_size":32,
           "num_hidden_layers":1,"num_attention_heads":2147483647,"head_dim":2147483646})",
       ""},
      {"HeadsThatDoNotDivide", with("num_attention_heads", "3"), "does not divide hidden_size"},
      {"KeyValueHeadsThatDoNotDivide", with("num_key_value_heads", "3"), "does not divide"},
      {"OddHeads", with("head_dim", "3"), "rotary embedding needs pairs"},
      {"NormOfZero", with("rms_norm_eps", "0"), "rms_norm_eps: must be positive"},
      {"NormThatOverflows", with("rms_norm_eps", "1e999"), "byte"},
      {"NegativeTokenId", with("eos_token_id", "-1"), "eos_token_id: expected a token id"},
      {"TokenIdOf64Bits", with("eos_token_id", "18446744073709551615"), "eos_token_id"},
      {"ListOfTexts", with("eos_token_id", "[1,\"2\"]"), "eos_token_id"},
      {"MillionWrongTokenIds", with("eos_token_id", "[-1" + repeated(",-1", 300'000) + "]"),
       "eos_token_id: expected a token id"},
  };
}

std::vector<HostileInput> text_cases() {
  return {
      {"UnknownFamilyWithALineEnd", with("model_type", "\"a\\nb\""), "model_type"},
      {"FamilyOfAMegabyte", with("model_type", "\"" + std::string(1 << 20, 'x') + "\""),
       "model_type"},
      {"FamilyIsAnObject", with("model_type", "{}"), "model_type: expected a text"},
      {"ActivationWithALineEnd", with("hidden_act", "\"a\\nb\""), "hidden_act"},
      {"ActivationOfAMegabyte", with("hidden_act", "\"" + std::string(1 << 20, 'x') + "\""),
       "hidden_act"},
      {"RopeTypeWithALineEnd", rope(R"("rope_type":"a\nb")"), "rope_type"},
      {"RopeTypeOfAMegabyte", rope(R"("rope_type":")" + std::string(1 << 20, 'x') + "\""),
       "rope_type"},
      {"RopeIsAList", with("rope_scaling", "[]"), "rope_scaling: expected an object"},
      {"RopeWithoutFactor", rope(R"("rope_type":"linear")"), "rope_scaling.factor: missing"},
      {"RopeFactorOfZero", rope(R"("rope_type":"linear","factor":0)"), "must be positive"},
      {"RopeThetaOfOne", with("rope_theta", "1"), "rope_theta: must be greater than 1"},
      {"RopeThetaIsText", with("rope_theta", "\"10000\""), "rope_theta: expected a number"},
      {"LayerTypesOfAMegabyte", with("layer_types", "[\"" + std::string(1 << 20, 'x') + "\"]"),
       "layer_types"},
      {"LayerTypesWithALineEnd", with("layer_types", "[\"a\\nb\"]"), "layer_types"},
      {"LayerTypesAreMixed", with("layer_types", R"(["full_attention",1])"), "layer_types"},
      {"NotAnObject", "[]", "expected an object, found array"},
      {"Nothing", "", "byte"},
      {"KeyGivenTwice", R"({"model_type":"llama","model_type":"mistral"})", "duplicate key"},
      {"Depth", R"({"x":)" + repeated("{\"x\":", 100'000), "nested deeper than 64"},
      {"InvalidUtf8", "{\"model_type\":\"\xff\"}", "byte"},
      {"UnknownKeysOfDepth60", with("x", repeated("[", 60) + repeated("]", 60)), ""},
      {"NamesOfOtherFiles", with("_name_or_path", "\"../outside\""), ""},
      {"QuantisedWeights", with("quantization_config", "{}"), "already quantised"},
  };
}

}  // namespace

std::vector<HostileInput> hostile_model_configs() {
  std::vector<HostileInput> all = size_cases();
  for (HostileInput& input : text_cases()) all.push_back(std::move(input));
  return all;
}

std::vector<HostileInput> hostile_tokenizers() {
  const auto config = [](const std::string& members) {
    return R"({"tokenizer_class":"RankwiseByteTokenizer")" + members + "}";
  };
  const auto decoder = [&](const std::string& entry) {
    return config(R"(,"added_tokens_decoder":{)" + entry + "}");
  };
  const auto added = [&](const std::string& text) { return config("") + '\0' + text; };
  return {
      {"Plain", config(""), ""},
      {"Nothing", "", "byte"},
      {"List", "[]", "not a JSON object"},
      {"ClassIsANumber", R"({"tokenizer_class":1})", "no tokenizer"},
      {"ClassOfAMegabyte", R"({"tokenizer_class":")" + std::string(1 << 20, 'x') + "\"}",
       "no tokenizer"},
      {"FlagIsText", config(R"(,"add_bos_token":"true")"), "add_bos_token is string"},
      {"TokenIsANumber", config(R"(,"bos_token":1)"), "bos_token is neither"},
      {"TokenWithoutContent", config(R"(,"eos_token":{})"), "eos_token is neither"},
      {"TokenOfAMegabyte", config(R"(,"eos_token":")" + std::string(1 << 20, 'x') + "\""), ""},
      {"DecoderIsAList", config(R"(,"added_tokens_decoder":[])"), "is not an object"},
      {"IdIsNoNumber", decoder(R"("x":{"content":"a"})"), "key 'x' is no id"},
      {"IdWithALineEnd", decoder(R"("1\n":{"content":"a"})"), "key '1\\x0a' is no id"},
      {"IdOfAMegabyte", decoder("\"" + std::string(1 << 20, '9') + R"(":{"content":"a"})"),
       "is no id"},
      {"NegativeId", decoder(R"("-1":{"content":"a"})"), "token id -1 is not in"},
      {"IdOf31Bits", decoder(R"("2147483647":{"content":"a"})"), "token id 2147483647 is not in"},
      {"IdOf64Bits", decoder(R"("9223372036854775807":{"content":"a"})"), "is not in"},
      {"IdBeyond64Bits", decoder(R"("9223372036854775808":{"content":"a"})"), "is no id"},
      {"IdWithoutContent", decoder(R"("1":{})"), "has no \"content\""},
      {"IdGivenTwice", decoder(R"("1":{"content":"a"},"1":{"content":"b"})"), "duplicate key"},
      {"AddedIsAList", added("[]"), "added_tokens.json: not a JSON object"},
      {"AddedIdIsReal", added(R"({"a":1.5})"), "the id of 'a' is no integer"},
      {"AddedIdOf64Bits", added(R"({"a":18446744073709551615})"), "is not in"},
      {"AddedIdIsNegative", added(R"({"a":-5})"), "token id -5 is not in"},
      {"AddedNameWithALineEnd", added(R"({"a\nb":null})"), "the id of 'a\\x0ab' is no integer"},
      {"NamesOfOtherFiles",
       config(R"(,"tokenizer_file":"/etc/passwd","vocab_file":"../outside/secret.bin")"), ""},
      {"AddedIsDeep", added(repeated("{\"a\":", 100'000)), "nested deeper than 64"},
  };
}

}  // namespace rankwise::testing
