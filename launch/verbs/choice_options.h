// SPDX-License-Identifier: Apache-2.0
// Options of verbs that take one of a few names.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "launch/config/train_config.h"

namespace rankwise {

// `value` stays as it is unless the option is given.
template <class Choice, class Value>
CLI::Option* add_choice(CLI::App& app, const std::string& flag, Value& value,
                        const std::map<std::string, Choice>& choices, const std::string& help) {
  const auto choose = [&value, choices](const std::string& name) { value = choices.at(name); };
  return app.add_option_function<std::string>(flag, choose, help)->check(CLI::IsMember(choices));
}

// --device and --compute.
void add_device_options(CLI::App& app, DeviceChoice& device, ComputeType& compute);
// --quant none|nf4.
void add_quant_option(CLI::App& app, bool& quantize_nf4, const std::string& help);

}  // namespace rankwise
