// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/low_rank_linear_terms.h"

#include <gtest/gtest.h>

#include <array>

#include "kernels/cpu/quantize.h"
#include "kernels/cuda/dequantize.h"
#include "tests/kernels/cuda/nf4_slices_on_gpu.h"
#include "tests/support/device_memory.h"

namespace rankwise {
namespace {

using testing::Backends;
using testing::kActivationTypes;

// Two layers of 5 and 3 outputs that read 12 columns, with ranks 2 and 3, the second with singular
// values and row factors; A and its gradient are strided.
struct Rig : Backends {
  Rig() {
    for (const auto& [out, rank, scale] : {std::tuple{5, 2, 0.5f}, std::tuple{3, 3, 2.0f}}) {
      a.push_back(memory.uniform({rank, 12}));
      b.push_back(memory.uniform({out, rank}));
      weights.push_back(memory.uniform({out, 12}));
      on_gpu.emplace_back(device.copy_of(weights.back()));
      scales.push_back(scale);
    }
    for (size_t i = 0; i < 2; ++i) {
      layers.push_back(
          {&on_gpu[i], device.copy_of(a[i], DType::kF32, 7), device.copy_of(b[i]), scales[i], {}});
    }
    e = memory.uniform({3});
    layers[1].e = device.copy_of(e);
    c = memory.uniform({3});
    layers[1].c = device.copy_of(c);
    group = cuda::group_of(layers);
  }
  std::vector<Tensor> a, b, weights;
  std::vector<Weight> on_gpu;
  std::vector<float> scales;
  Tensor e, c;
  std::vector<LowRankLinear> layers;
  float row_factor(size_t layer, int64_t row) const {
    return layer == 0 ? 1.0f : c.data<float>()[row];
  }
  // What this element of B of a layer is multiplied with.
  float factor(size_t layer, int64_t row, int64_t r) const {
    return layer == 0 ? scales[0] : scales[1] * e.data<float>()[r] * c.data<float>()[row];
  }
  cuda::Group group;
};

float at(const Tensor& x, int64_t row, int64_t column) {
  return x.data<float>()[row * x.dim(1) + column];
}

TEST(CudaLowRankTerms, FillTheMatrixOfAGroup) {
  RW_REQUIRE_GPU();
  for (const DType type : kActivationTypes) {
    Rig rig;
    const Tensor matrix = rig.device.poisoned(type, {8 + 8, 12 + 8}, 64 - 20);
    cuda::expand_weights(matrix, rig.group, rig.layers, rig.gpu);
    cuda::expand_terms(matrix, rig.group, rig.layers, rig.gpu);
    const Tensor got = rig.device.to_host(matrix, rig.memory);
    const auto expect = [&](int64_t row, int64_t column, float value) {
      const float kept = type == DType::kF32 ? value : float_from_bf16(bf16_from_float(value));
      EXPECT_EQ(at(got, row, column), kept) << row << ", " << column;
    };
    for (int64_t layer = 0; layer < 2; ++layer) {
      const auto i = static_cast<size_t>(layer);
      const int64_t first_out = layer == 0 ? 0 : 5, first_rank = layer == 0 ? 0 : 2;
      for (int64_t row = 0; row < rig.b[i].dim(0); ++row) {
        for (int64_t c = 0; c < 12; ++c) {
          expect(first_out + row, c, rig.row_factor(i, row) * at(rig.weights[i], row, c));
        }
        for (int64_t r = 0; r < 8; ++r) {  // the last three are padding
          const bool own = r >= first_rank && r < first_rank + rig.b[i].dim(1);
          expect(
              first_out + row, 12 + r,
              own ? rig.factor(i, row, r - first_rank) * at(rig.b[i], row, r - first_rank) : 0.0f);
        }
      }
      for (int64_t r = 0; r < rig.a[i].dim(0); ++r) {
        for (int64_t c = 0; c < 12; ++c) expect(8 + first_rank + r, c, at(rig.a[i], r, c));
      }
    }
    for (int64_t row = 8 + 5; row < 8 + 8; ++row) {
      for (int64_t c = 0; c < 12; ++c) expect(row, c, 0.0f);
    }
  }
}

TEST(CudaLowRankTerms, AddTheirBlocksOfTheGradients) {
  RW_REQUIRE_GPU();
  Rig rig;
  const Tensor a_sums = rig.memory.uniform({8, 12});
  const Tensor b_sums = rig.memory.uniform({8, 8});
  std::array<LowRankGradients, 2> gradients;
  std::array<Tensor, 2> da_before, db_before;
  const Tensor de_before = rig.memory.uniform({3});
  for (size_t i = 0; i < 2; ++i) {
    da_before[i] = rig.memory.uniform(rig.a[i].shape());
    db_before[i] = rig.memory.uniform(rig.b[i].shape());
    gradients[i].da = rig.device.copy_of(da_before[i], DType::kF32, 5);
    gradients[i].db = rig.device.copy_of(db_before[i]);
  }
  gradients[1].de = rig.device.copy_of(de_before);
  cuda::add_gradients(gradients, rig.device.copy_of(a_sums), rig.device.copy_of(b_sums), rig.group,
                      rig.layers, rig.gpu);
  const Tensor de = rig.device.to_host(gradients[1].de, rig.memory);
  for (int64_t r = 0; r < 3; ++r) {
    double sum = 0.0;
    for (int64_t row = 0; row < 3; ++row) {
      sum += static_cast<double>(at(rig.b[1], row, r)) * rig.row_factor(1, row) *
             at(b_sums, 5 + row, 2 + r);
    }
    EXPECT_NEAR(de.data<float>()[r], de_before.data<float>()[r] + rig.scales[1] * sum, 1e-6);
  }
  for (size_t i = 0; i < 2; ++i) {
    const int64_t first_out = i == 0 ? 0 : 5, first_rank = i == 0 ? 0 : 2;
    const Tensor da = rig.device.to_host(gradients[i].da, rig.memory);
    const Tensor db = rig.device.to_host(gradients[i].db, rig.memory);
    for (int64_t r = 0; r < da.dim(0); ++r) {
      for (int64_t c = 0; c < 12; ++c) {
        EXPECT_NEAR(at(da, r, c), at(da_before[i], r, c) + at(a_sums, first_rank + r, c), 1e-6);
      }
      for (int64_t row = 0; row < db.dim(0); ++row) {
        const float added = rig.factor(i, row, r) * at(b_sums, first_out + row, first_rank + r);
        EXPECT_NEAR(at(db, row, r), at(db_before[i], row, r) + added, 1e-6);
      }
    }
  }
}

TEST(CudaExpandWeight, MultipliesNf4RowsToTheBitsOfTheCpu) {
  RW_REQUIRE_GPU();
  testing::for_each_slice([](testing::WholeNf4& whole, const MatrixSlice& slice, Stream& gpu,
                             testing::DeviceMemory& device) {
    const QuantizedTensor part = whole.slice(slice);
    const Weight on_gpu = testing::on_gpu(part, device);
    const int64_t rows = part.shape.dim(0);
    const Tensor c = whole.memory.uniform({rows}), device_c = device.copy_of(c);
    for (const DType type : kActivationTypes) {
      for (const int64_t extra : {0, 3}) {
        const Tensor expected = whole.memory.poisoned(part.shape);
        cpu::dequantize_rows(expected.data<float>(), part, 0, rows, c.data<float>());
        const Tensor out = device.poisoned(type, part.shape, extra);
        cuda::expand_weight(out.raw(), type, out.row_stride(), on_gpu, gpu, device_c.data<float>());
        testing::expect_identical(device.to_host(out, whole.memory),
                                  testing::rounded(expected, type));
      }
    }
  });
}

// Rows of whole packs and rows of single elements.
TEST(CudaExpandWeight, MultipliesDenseRowsAndRoundsOnce) {
  RW_REQUIRE_GPU();
  for (const Shape& shape : {Shape{24, 64}, Shape{5, 1100}, Shape{7, 43}}) {
    for (const DType from : kActivationTypes) {
      for (const DType to : kActivationTypes) {
        for (const int64_t extra : {0, 3, 8}) {
          Backends both;
          const auto [w, device_w] = both.pair(both.memory.normal(shape), from, extra);
          const Tensor c = both.memory.uniform({shape.dim(0)}), device_c = both.device.copy_of(c);
          const Tensor out = both.device.poisoned(to, shape, extra);
          cuda::expand_weight(out.raw(), to, out.row_stride(), device_w, both.gpu,
                              device_c.data<float>());
          for (int64_t i = 0; i < w.numel(); ++i) {
            w.data<float>()[i] *= c.data<float>()[i / shape.dim(1)];
          }
          testing::expect_identical(both.device.to_host(out, both.memory), testing::rounded(w, to));
        }
      }
    }
  }
}

}  // namespace
}  // namespace rankwise
