// SPDX-License-Identifier: Apache-2.0
#include "parallel/communicator.h"

#include "parallel/collective.h"

namespace rankwise {
namespace {

class SingleCommunicator : public ImmediateCommunicator {
 public:
  using ImmediateCommunicator::ImmediateCommunicator;

  int rank() const override { return 0; }
  int size() const override { return 1; }

  void all_reduce(const Tensor& tensor, ReduceOp, std::string_view operation, Stream&) override {
    const CollectiveRecord record(activity(), operation);
    check_reducible(tensor, 1, operation);
  }

  void broadcast(const Tensor& tensor, int root, std::string_view operation, Stream&) override {
    const CollectiveRecord record(activity(), operation);
    check_transferable(tensor, 1, operation);
    check_root(root, operation);
  }

  void all_gather(const Tensor& out, const Tensor& in, std::string_view operation,
                  Stream& stream) override {
    const CollectiveRecord record(activity(), operation);
    check_gatherable(out, in, 1, operation);
    gather_alone(out, in, stream);
  }

  void barrier(std::string_view operation) override {
    const CollectiveRecord record(activity(), operation);
  }

  std::vector<std::string> gather_text(const std::string& text,
                                       std::string_view operation) override {
    const CollectiveRecord record(activity(), operation);
    return {text};
  }

  std::string broadcast_text(const std::string& text, int root,
                             std::string_view operation) override {
    const CollectiveRecord record(activity(), operation);
    check_root(root, operation);
    return text;
  }

  std::unique_ptr<Communicator> split(int, int, std::string_view) override {
    return std::make_unique<SingleCommunicator>(activity_);
  }

  void abort(int exit_code) override { end_process(exit_code); }

 private:
  static void check_root(int root, std::string_view operation) {
    if (root != 0) throw CommunicationError(fmt::format("{}: no rank {} of 1", operation, root));
  }
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>(std::make_shared<Activity>());
}

std::vector<double> all_reduce_numbers(Communicator& communicator, std::vector<double> values,
                                       ReduceOp op, std::string_view operation) {
  Stream stream;
  const Tensor view(values.data(), DType::kF64, {static_cast<int64_t>(values.size())});
  communicator.all_reduce(view, op, operation, stream);
  return values;
}

}  // namespace rankwise
