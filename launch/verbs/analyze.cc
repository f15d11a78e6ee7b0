// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <ostream>
#include <set>

#include "kernels/quantize.h"
#include "launch/adapter_analysis.h"
#include "launch/adapter_folder.h"
#include "launch/heat_map.h"
#include "launch/verbs/verb.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/weight_source.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTitle = "rankwise analyze";
constexpr int64_t kMapCells = 64;  // at most, along a side of a map of similarities

using Modules = std::vector<AdaptedModule>;

// The kinds with their names in tables: the last part of each, unless two share it.
std::map<std::string, std::string> kind_names(const Modules& modules) {
  std::map<std::string, std::string> names;
  std::set<std::string> last;
  for (const AdaptedModule& module : modules) {
    names[module.kind] = module.kind.substr(module.kind.rfind('.') + 1);
  }
  for (const auto& [kind, name] : names) last.insert(name);
  for (auto& [kind, name] : names) {
    if (last.size() < names.size()) name = kind;
  }
  return names;
}

// One value per module: layers in rows, kinds in columns.
NumberTable by_layer(const std::string& title, const Modules& modules,
                     const std::vector<double>& values, int digits) {
  const auto kinds = kind_names(modules);
  NumberTable table;
  table.title = title;
  table.digits = digits;
  for (const auto& [kind, name] : kinds) table.columns.push_back(name);
  for (size_t i = 0; i < modules.size(); ++i) {
    const std::string row = modules[i].layer.empty() ? "-" : modules[i].layer;
    if (table.rows.empty() || table.rows.back() != row) {
      table.rows.push_back(row);
      table.values.resize(table.values.size() + kinds.size(), NAN);
    }
    const auto column = std::distance(kinds.begin(), kinds.find(modules[i].kind));
    table.values[(table.rows.size() - 1) * kinds.size() + static_cast<size_t>(column)] = values[i];
  }
  return table;
}

// phi of the modules of one kind, its mean over the layers that have directions i and j.
struct KindSimilarity {
  int64_t in = 0;
  int64_t rows = 0;  // the largest ranks
  int64_t columns = 0;
  std::map<std::pair<int64_t, int64_t>, std::pair<double, double>> sums;  // (i, j): phi, layers

  void add(const std::vector<double>& phi, int64_t k1, int64_t k2) {
    rows = std::max(rows, k1);
    columns = std::max(columns, k2);
    for (int64_t n = 0; n < k1 * k2; ++n) {
      auto& [sum, layers] = sums[{n / k2 + 1, n % k2 + 1}];
      sum += phi[static_cast<size_t>(n)];
      layers += 1.0;
    }
  }
  double at(int64_t i, int64_t j) const {
    const auto found = sums.find({i, j});
    return found == sums.end() ? NAN : found->second.first / found->second.second;
  }
};

std::map<std::string, KindSimilarity> compare(const AdapterFolder& first,
                                              const AdapterFolder& second) {
  std::map<std::string, KindSimilarity> kinds;
  Arena arena;
  Stream stream;
  for (const AdaptedModule& module : first.modules()) {
    const auto& others = second.modules();
    const auto other = std::ranges::find(others, module.name, &AdaptedModule::name);
    if (other == others.end() || module.rank == 0 || other->rank == 0) continue;
    if (other->in != module.in) {
      throw FormatError(fmt::format("{}: {} has {} inputs, in {} it has {}", second.path(),
                                    module.name, other->in, first.path(), module.in));
    }
    const Arena::Scope scope = arena.scope("analysis");
    const Tensor v = singular_vectors(input_directions(*module.adapter, arena), arena, stream).vt;
    const Tensor w = singular_vectors(input_directions(*other->adapter, arena), arena, stream).vt;
    if (v.dim(0) == 0 || w.dim(0) == 0) continue;
    KindSimilarity& kind = kinds[module.kind];
    kind.in = module.in;
    kind.add(subspace_similarity(v, w, arena, stream), v.dim(0), w.dim(0));
  }
  if (!kinds.empty()) return kinds;
  throw FormatError(fmt::format("{} and {} have no module of rank above 0 in common", first.path(),
                                second.path()));
}

// Some (i, j) of every kind, each with what random subspaces would give.
NumberTable similarity_table(const std::map<std::string, KindSimilarity>& kinds,
                             const std::map<std::string, std::string>& names) {
  int64_t rows = 0;
  int64_t columns = 0;
  for (const auto& [kind, similarity] : kinds) {
    rows = std::max(rows, similarity.rows);
    columns = std::max(columns, similarity.columns);
  }
  const int64_t both = std::min(rows, columns);
  std::set<std::pair<int64_t, int64_t>> cells = {{1, columns}, {both, both}, {rows, columns}};
  for (int64_t i = 1; i < both; i *= 2) cells.emplace(i, i);
  NumberTable table;
  table.title = "similarity phi(i, j) of the input subspaces, mean over layers";
  for (const auto& [i, j] : cells) table.columns.push_back(fmt::format("{},{}", i, j));
  for (const auto& [kind, similarity] : kinds) {
    table.rows.push_back(names.at(kind));
    table.rows.emplace_back("  random");
    std::vector<double> random;
    for (const auto& [i, j] : cells) {
      const double phi = similarity.at(i, j);
      table.values.push_back(phi);
      const auto in = static_cast<double>(similarity.in);
      random.push_back(std::isnan(phi) ? NAN : static_cast<double>(std::max(i, j)) / in);
    }
    table.values.insert(table.values.end(), random.begin(), random.end());
  }
  return table;
}

NumberTable similarity_map(const std::string& name, const KindSimilarity& similarity) {
  NumberTable map;
  map.title = name + ": phi(i, j), i of the first adapter downwards, mean over layers";
  map.darkest = 1.0;
  const int64_t rows = std::min(similarity.rows, kMapCells);
  const int64_t columns = std::min(similarity.columns, kMapCells);
  for (int64_t j = 1; j <= columns; ++j) map.columns.push_back(std::to_string(j));
  for (int64_t i = 1; i <= rows; ++i) {
    map.rows.push_back(std::to_string(i));
    for (int64_t j = 1; j <= columns; ++j) map.values.push_back(similarity.at(i, j));
  }
  return map;
}

Tensor base_weight(const WeightSource& weights, const AdaptedModule& module, Arena& arena,
                   Stream& stream) {
  const std::string name = module.name + ".weight";
  const Shape shape = {module.out, module.in};
  if (!(weights.shape(name) == shape)) {
    throw FormatError(fmt::format("{}: {} has shape {}, the adapter needs {}",
                                  weights.description(), name, to_string(weights.shape(name)),
                                  to_string(shape)));
  }
  const Tensor w = arena.allocate("analysis", DType::kF32, shape);
  if (const auto quantized = weights.read_quantized(name, arena, "analysis")) {
    dequantize(w, *quantized, stream);
  } else {
    weights.read(name, w);
  }
  return w;
}

// A picture of ours is replaced, nothing else.
void require_replaceable(const std::string& path) {
  const fs::path folder = fs::path(path).parent_path();
  if (!folder.empty() && !fs::is_directory(folder)) {
    throw ConfigError(fmt::format("--output: '{}' is no folder", folder.string()));
  }
  if (!fs::exists(path)) return;
  std::string head(400, '\0');
  std::ifstream(path).read(head.data(), std::ssize(head));
  if (fs::is_regular_file(path) && head.find(fmt::format("<title>{}", kTitle)) != head.npos) return;
  throw ConfigError(
      fmt::format("--output: '{}' exists and is no picture of `rankwise analyze`", path));
}

class AnalyzeVerb : public Verb {
 public:
  std::string name() const override { return "analyze"; }
  std::string help() const override { return "ranks, subspaces and amplification of an adapter"; }
  void add_options(CLI::App& app) override {
    app.add_option("ADAPTER", adapter_,
                   "PEFT adapter folder (LoRA, DoRA, AdaLoRA), or the folder of a run")
        ->required();
    app.add_option("--with", with_,
                   "another adapter: similarity of the subspaces that the two read from");
    app.add_option("--model", model_,
                   "base, model folder or quantised store: how much the adapter amplifies what is "
                   "in its weights");
    app.add_option("--output", output_, "picture; default: analysis.svg in the adapter's folder");
  }

  int run(VerbContext& context) override {
    if (context.world.rank() != 0) return static_cast<int>(ExitCode::kDone);
    const AdapterFolder adapter(adapter_);
    const std::string output =
        output_.empty() ? (fs::path(adapter.path()) / "analysis.svg").string() : output_;
    require_replaceable(output);
    std::vector<NumberTable> maps;
    add_ranks(adapter, maps, context.out);
    if (!with_.empty()) add_similarity(adapter, maps, context.out);
    if (!model_.empty()) add_amplification(adapter, maps, context.out);
    std::string title = fmt::format("{} {}", kTitle, adapter_);
    if (!with_.empty()) title += " --with " + with_;
    if (!model_.empty()) title += " --model " + model_;
    write_file_atomically(output, heat_maps_svg(title, maps));
    context.out << "heat maps in " << output << "\n";
    return static_cast<int>(ExitCode::kDone);
  }

 private:
  static void add_ranks(const AdapterFolder& adapter, std::vector<NumberTable>& maps,
                        std::ostream& out) {
    std::vector<double> ranks;
    for (const AdaptedModule& module : adapter.modules()) {
      ranks.push_back(static_cast<double>(module.rank));
    }
    maps.push_back(by_layer("ranks by layer", adapter.modules(), ranks, 0));
    out << table_text(with_totals(maps.back())) << "\n";
  }

  void add_similarity(const AdapterFolder& adapter, std::vector<NumberTable>& maps,
                      std::ostream& out) const {
    const auto kinds = compare(adapter, AdapterFolder(with_));
    const auto names = kind_names(adapter.modules());
    out << table_text(similarity_table(kinds, names)) << "\n";
    for (const auto& [kind, similarity] : kinds) {
      maps.push_back(similarity_map(names.at(kind), similarity));
    }
  }

  void add_amplification(const AdapterFolder& adapter, std::vector<NumberTable>& maps,
                         std::ostream& out) const {
    if (!fs::exists(model_)) throw ConfigError(fmt::format("'{}' does not exist", model_));
    const std::unique_ptr<WeightSource> weights = open_weights(model_);
    std::vector<double> changes, bases, factors;
    Arena arena;
    Stream stream;
    for (const AdaptedModule& module : adapter.modules()) {
      const Arena::Scope scope = arena.scope("analysis");
      const Tensor w = base_weight(*weights, module, arena, stream);
      Amplification value;
      if (module.rank > 0) value = amplification(*module.adapter, w, arena, stream);
      changes.push_back(value.change);
      bases.push_back(value.base);
      factors.push_back(value.change == 0.0 ? NAN : value.factor());
    }
    if (std::ranges::max(changes) == 0.0) {
      throw FormatError(fmt::format("{}: changes no weight: its B, E or ranks are 0", adapter_));
    }
    const Modules& modules = adapter.modules();
    for (const NumberTable& map :
         {by_layer("|dW| by layer", modules, changes, 3),
          by_layer("|U'WV| by layer", modules, bases, 3),
          by_layer("amplification factor by layer", modules, factors, 2)}) {
      out << table_text(map) << "\n";
      maps.push_back(map);
    }
  }

  std::string adapter_;
  std::string with_;
  std::string model_;
  std::string output_;
};

}  // namespace

std::unique_ptr<Verb> make_analyze_verb() { return std::make_unique<AnalyzeVerb>(); }

}  // namespace rankwise
