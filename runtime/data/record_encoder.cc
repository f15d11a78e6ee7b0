// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/record_encoder.h"

#include <limits>

#include "runtime/data/utf8.h"
#include "runtime/errors.h"
#include "runtime/io/json.h"

namespace rankwise {
namespace {

const Json* find_field(const Json& object, const char* name) {
  const auto field = object.find(name);
  return field == object.end() ? nullptr : &*field;
}

[[noreturn]] void wrong_type(const std::string& place, const char* name, const char* expected,
                             const Json& found) {
  throw DataError(
      fmt::format("{}: field '{}' must be {}, not {}", place, name, expected, found.type_name()));
}

const Json& required_field(const Json& object, const char* name, const std::string& place) {
  const Json* field = find_field(object, name);
  if (field == nullptr) throw DataError(fmt::format("{}: field '{}' is missing", place, name));
  return *field;
}

const std::string& text_field(const Json& object, const char* name, const std::string& place) {
  const Json& field = required_field(object, name, place);
  if (!field.is_string()) wrong_type(place, name, "a string", field);
  return field.get_ref<const std::string&>();
}

Json parse_object(const std::string& text, const std::string& place) {
  Json object;
  try {
    object = parse_json(text, place);
  } catch (const FormatError& error) {
    throw DataError(error.what());
  }
  if (!object.is_object()) {
    throw DataError(fmt::format("{}: the record is {}, not an object", place, object.type_name()));
  }
  return object;
}

bool in_vocabulary(int32_t id, const DatasetOptions& options) {
  return id >= 0 && (options.vocab_size == 0 || id < options.vocab_size);
}

[[noreturn]] void outside_vocabulary(const std::string& place, int32_t id,
                                     const DatasetOptions& options) {
  throw DataError(fmt::format("{}: token id {} is outside the model's vocabulary of {}", place, id,
                              options.vocab_size));
}

// The alpaca template of Taori et al. 2023, without the response.
std::string alpaca_prompt(const std::string& instruction, const std::string& input) {
  if (input.empty()) {
    return fmt::format(
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\n{}\n\n### Response:\n",
        instruction);
  }
  return fmt::format(
      "Below is an instruction that describes a task, paired with an input that provides further "
      "context. Write a response that appropriately completes the request.\n\n### "
      "Instruction:\n{}\n\n### Input:\n{}\n\n### Response:\n",
      instruction, input);
}

class SampleBuilder {
 public:
  SampleBuilder(const Tokenizer& tokenizer, const DatasetOptions& options, const std::string& place)
      : tokenizer_(tokenizer), options_(options), place_(place) {}

  void begin(bool trained) {
    if (tokenizer_.adds_bos() && tokenizer_.bos_id() >= 0) append(tokenizer_.bos_id(), trained);
  }
  void text(const std::string& content, bool trained) {
    for (const int32_t id : tokenizer_.encode(content)) append(id, trained);
  }
  Sample end() {
    if (tokenizer_.eos_id() >= 0) append(tokenizer_.eos_id(), true);
    return std::move(sample_);
  }

 private:
  void append(int32_t id, bool trained) {
    if (!in_vocabulary(id, options_)) outside_vocabulary(place_, id, options_);
    sample_.input_ids.push_back(id);
    sample_.labels.push_back(trained ? id : kIgnoredLabel);
  }

  const Tokenizer& tokenizer_;
  const DatasetOptions& options_;
  const std::string& place_;
  Sample sample_;
};

std::vector<int32_t> integers(const Json& record, const char* name, const std::string& place) {
  const Json& array = required_field(record, name, place);
  if (!array.is_array()) wrong_type(place, name, "an array of integers", array);
  std::vector<int32_t> out;
  out.reserve(array.size());
  for (const Json& item : array) {
    if (!item.is_number_integer()) wrong_type(place, name, "an array of integers", item);
    const bool fits = item.is_number_unsigned()
                          ? item.get<uint64_t>() <= std::numeric_limits<int32_t>::max()
                          : item.get<int64_t>() >= std::numeric_limits<int32_t>::min();
    if (!fits) {
      throw DataError(fmt::format("{}: field '{}'[{}]: {} is not a token id", place, name,
                                  out.size(), item.dump()));
    }
    out.push_back(item.get<int32_t>());
  }
  return out;
}

Sample tokens_sample(const Json& record, const DatasetOptions& options, const std::string& place) {
  Sample sample{integers(record, "input_ids", place), integers(record, "labels", place)};
  if (sample.labels.size() != sample.input_ids.size()) {
    throw DataError(fmt::format("{}: field 'labels' has {} entries, 'input_ids' has {}", place,
                                sample.labels.size(), sample.input_ids.size()));
  }
  for (size_t i = 0; i < sample.input_ids.size(); ++i) {
    const int32_t id = sample.input_ids[i];
    const int32_t label = sample.labels[i];
    if (!in_vocabulary(id, options)) {
      outside_vocabulary(fmt::format("{}: field 'input_ids'[{}]", place, i), id, options);
    }
    if (label != kIgnoredLabel && !in_vocabulary(label, options)) {
      outside_vocabulary(fmt::format("{}: field 'labels'[{}]", place, i), label, options);
    }
  }
  return sample;
}

struct PromptAndCompletion {
  std::string prompt;
  std::string completion;
};

PromptAndCompletion read_texts(const Json& record, RecordFormat format, const std::string& place) {
  switch (format) {
    case RecordFormat::kPromptCompletion:
      return {text_field(record, "prompt", place), text_field(record, "completion", place)};
    case RecordFormat::kAlpaca: {
      const Json* input = find_field(record, "input");
      const bool has_input = input != nullptr && !input->is_null();
      return {alpaca_prompt(text_field(record, "instruction", place),
                            has_input ? text_field(record, "input", place) : ""),
              text_field(record, "output", place)};
    }
    case RecordFormat::kText:
      return {"", text_field(record, "text", place)};
    case RecordFormat::kTokens:
      break;
  }
  RW_ASSERT(false, "format {}", static_cast<int>(format));
  return {};
}

}  // namespace

bool is_plain_text(const DataSource& source) {
  return source.format == RecordFormat::kText && source.path.ends_with(".txt");
}

Sample encode_record(const Record& record, const DataSource& source, const Tokenizer* tokenizer,
                     const DatasetOptions& options) {
  const std::string place = fmt::format("{}:{}", source.path, record.row);
  // The JSON reader would take a NUL for the end of its input and not see what follows.
  if (record.text.find('\0') != std::string::npos) {
    throw DataError(fmt::format("{}: a NUL byte in the record", place));
  }
  PromptAndCompletion texts;
  if (is_plain_text(source)) {
    if (!is_valid_utf8(record.text)) throw DataError(fmt::format("{}: invalid UTF-8", place));
    texts.completion = record.text;
  } else {
    const Json object = parse_object(record.text, place);
    if (source.format == RecordFormat::kTokens) return tokens_sample(object, options, place);
    texts = read_texts(object, source.format, place);
  }
  if (texts.completion.empty()) return {};
  const bool train_prompt = options.train_on_prompt || source.format == RecordFormat::kText;
  SampleBuilder sample(*tokenizer, options, place);
  sample.begin(train_prompt);
  sample.text(texts.prompt, train_prompt);
  sample.text(texts.completion, true);
  return sample.end();
}

}  // namespace rankwise
