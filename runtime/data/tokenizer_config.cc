// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/tokenizer_config.h"

#include <charconv>
#include <limits>

#include "runtime/errors.h"
#include "runtime/io/json.h"

namespace rankwise {
namespace {

// An object, empty when the file is absent.
Json json_object(const TokenizerFiles& files, std::string_view name, const std::string& place) {
  const std::string* content = find_content(files, name);
  if (content == nullptr) return Json::object();
  Json value = parse_json(*content, place);
  if (!value.is_object()) throw FormatError(fmt::format("{}: not a JSON object", place));
  return value;
}

std::optional<bool> optional_flag(const Json& object, const char* key, const std::string& place) {
  const auto entry = object.find(key);
  if (entry == object.end() || entry->is_null()) return std::nullopt;
  if (!entry->is_boolean()) {
    throw FormatError(
        fmt::format("{}: {} is {}, not true or false", place, key, entry->type_name()));
  }
  return entry->get<bool>();
}

// A token is written as its text, as {"content": text, ...}, or as null.
std::optional<std::string> optional_token(const Json& object, const char* key,
                                          const std::string& place) {
  const auto entry = object.find(key);
  if (entry == object.end()) return std::nullopt;
  if (entry->is_null()) return std::string();
  if (entry->is_string()) return entry->get<std::string>();
  if (entry->is_object() && entry->contains("content") && (*entry)["content"].is_string()) {
    return (*entry)["content"].get<std::string>();
  }
  throw FormatError(
      fmt::format("{}: {} is neither text nor an object with \"content\"", place, key));
}

int32_t token_id(int64_t id, const std::string& place) {
  // Far above any vocabulary; keeps a hostile id from becoming the vocabulary's size.
  constexpr int64_t kLargestId = 1 << 24;
  if (id < 0 || id > kLargestId) {
    throw FormatError(fmt::format("{}: token id {} is not in 0..{}", place, id, kLargestId));
  }
  return static_cast<int32_t>(id);
}

// "added_tokens_decoder": {"32000": {"content": "<|im_end|>", ...}, ...}
void read_added_tokens_decoder(const Json& config, const std::string& place, TokenizerConfig& out) {
  const auto decoder = config.find("added_tokens_decoder");
  if (decoder == config.end() || decoder->is_null()) return;
  if (!decoder->is_object()) {
    throw FormatError(fmt::format("{}: added_tokens_decoder is not an object", place));
  }
  for (const auto& [key, token] : decoder->items()) {
    int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size()) {
      throw FormatError(fmt::format("{}: added_tokens_decoder key {} is no id", place, quote(key)));
    }
    if (!token.is_object() || !token.contains("content") || !token["content"].is_string()) {
      throw FormatError(fmt::format("{}: added_tokens_decoder {} has no \"content\"", place, id));
    }
    out.added_tokens.emplace_back(token["content"].get<std::string>(), token_id(id, place));
  }
}

}  // namespace

const std::string* find_content(const TokenizerFiles& files, std::string_view name) {
  for (const auto& [file, content] : files) {
    if (file == name) return &content;
  }
  return nullptr;
}

TokenizerConfig read_tokenizer_config(const TokenizerFiles& files, const std::string& source) {
  TokenizerConfig out;
  const std::string place = source + "/tokenizer_config.json";
  const Json config = json_object(files, "tokenizer_config.json", place);
  const auto name = config.find("tokenizer_class");
  if (name != config.end() && name->is_string()) out.tokenizer_class = name->get<std::string>();
  out.add_bos_token = optional_flag(config, "add_bos_token", place);
  out.bos_token = optional_token(config, "bos_token", place);
  out.eos_token = optional_token(config, "eos_token", place);
  read_added_tokens_decoder(config, place, out);

  const std::string added_place = source + "/added_tokens.json";
  const Json added_tokens = json_object(files, "added_tokens.json", added_place);
  for (const auto& [content, id] : added_tokens.items()) {
    if (!id.is_number_integer()) {
      throw FormatError(fmt::format("{}: the id of {} is no integer", added_place, quote(content)));
    }
    out.added_tokens.emplace_back(content, token_id(id.get<int64_t>(), added_place));
  }
  return out;
}

}  // namespace rankwise
