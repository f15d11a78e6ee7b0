// SPDX-License-Identifier: Apache-2.0
#include "parallel/collective.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>

#include "kernels/elementwise.h"

namespace rankwise {

void check_reducible(const Tensor& tensor, int size, std::string_view operation, Device device) {
  check_transferable(tensor, size, operation, device);
  const DType dtype = tensor.dtype();
  RW_ASSERT(dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kI32 ||
                dtype == DType::kI64 || (dtype == DType::kBF16 && tensor.device().is_cuda()),
            "{}: cannot reduce {}", operation, name_of(dtype));
}

void check_transferable(const Tensor& tensor, int size, std::string_view operation, Device device) {
  RW_ASSERT(tensor.defined(), "{}", operation);
  RW_ASSERT(tensor.is_contiguous(), "{}: strided tensor", operation);
  RW_ASSERT(size == 1 || tensor.device() == device, "{}: tensor on {}, communicator on {}",
            operation, to_string(tensor.device()), to_string(device));
}

void check_gatherable(const Tensor& out, const Tensor& in, int size, std::string_view operation,
                      Device device) {
  check_transferable(out, size, operation, device);
  check_transferable(in, size, operation, device);
  RW_ASSERT(out.dtype() == in.dtype() && out.rank() > 0 && out.dim(0) == size &&
                out.numel() == in.numel() * size,
            "{}: out {} in {} ranks {}", operation, to_string(out.shape()), to_string(in.shape()),
            size);
}

void gather_alone(const Tensor& out, const Tensor& in, Stream& stream) {
  if (out.raw() != in.raw()) copy(out.reshaped(in.shape()), in, stream);
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown host";
}

void end_process(int exit_code) {
  std::fflush(nullptr);
  std::_Exit(exit_code);
}

}  // namespace rankwise
