// SPDX-License-Identifier: Apache-2.0
// m = b1 (map[code] absmax) + (1 - b1) g, v alike with g^2; p = p keep - step_size m / (sqrt(v)
// inv_root2 + eps); absmax = max |m| over 256 elements, code = entry nearest to m (1 / absmax), v
// alike; over many tensors in one launch. A warp holds one block of 256 elements in registers.
#include <cfloat>

#include "kernels/cuda/adamw8bit.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/tensor_list.cuh"
#include "kernels/dynamic_map.h"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kBlock = static_cast<int>(kAdamW8bitBlock);
constexpr int kBlocksPerWarp = 4;  // so that copying the tables to shared memory costs little
constexpr int kPack = 4;           // neighbouring elements of a lane
constexpr int kPacks = kBlock / (32 * kPack);
constexpr int kPerLane = kPack * kPacks;

struct alignas(16) Tables {
  DynamicMapTables<uint8_t> m, v;
};
__device__ const Tables kTables = {dynamic_map_tables<uint8_t>(true),
                                   dynamic_map_tables<uint8_t>(false)};

struct State {
  float* p;
  const float* g;
  uint8_t* m_codes;
  uint8_t* v_codes;
  float* m_absmax;
  float* v_absmax;
  int64_t count;
};
using StateList = TensorList<State, 64, kWarps * kBlock * kBlocksPerWarp>;

// The elements of one block that a lane holds: pack k of the lane starts at (32 k + lane) kPack.
template <class T>
using Held = T[kPerLane];

__device__ int first_of_pack(int k) {
  return (32 * k + static_cast<int>(threadIdx.x) % 32) * kPack;
}

// kWhole: the block has kBlock elements at aligned addresses. Elements past `count` are `absent`.
template <bool kWhole, class T>
__device__ void load(Held<T>& to, const T* from, int count, T absent) {
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int first = first_of_pack(k);
    Pack<T, kPack> pack;
    if constexpr (kWhole) pack = load_pack<kPack>(from + first);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if constexpr (!kWhole) pack.v[i] = first + i < count ? from[first + i] : absent;
      to[k * kPack + i] = pack.v[i];
    }
  }
}

template <bool kWhole, class T>
__device__ void store(T* to, const Held<T>& from, int count) {
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int first = first_of_pack(k);
    Pack<T, kPack> pack;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      pack.v[i] = from[k * kPack + i];
      if constexpr (!kWhole) {
        if (first + i < count) to[first + i] = pack.v[i];
      }
    }
    if constexpr (kWhole) store_pack<kPack>(to + first, pack);
  }
}

__device__ int level_of(const DynamicMapTables<uint8_t>& tables, float magnitude) {
  const uint32_t bucket = max(__float_as_uint(magnitude) >> tables.kShift, tables.kLowest);
  const int level = tables.first[bucket - tables.kLowest];
  return level + (magnitude > tables.threshold[level] ? 1 : 0);
}

// Stores the scale of the block; returns the reciprocal, 0 where there is none.
__device__ float store_absmax(float* to, unsigned largest) {
  float absmax = __uint_as_float(__reduce_max_sync(0xffffffffu, largest));
  if (absmax < FLT_MIN) absmax = 0.0f;
  if (threadIdx.x % 32 == 0) *to = absmax;
  return absmax == 0.0f ? 0.0f : __frcp_rn(absmax);
}

template <bool kWhole>
__device__ void update_block(const State& state, int64_t block, const Tables& tables,
                             const AdamWFactors& f) {
  const int64_t begin = block * kBlock;
  const int count = static_cast<int>(min(int64_t{kBlock}, state.count - begin));
  Held<float> p, g, m, v;
  Held<uint8_t> m_codes, v_codes;
  load<kWhole>(p, state.p + begin, count, 0.0f);
  load<kWhole>(g, state.g + begin, count, 0.0f);
  load<kWhole>(m_codes, state.m_codes + begin, count, uint8_t{kSignedZero});
  load<kWhole>(v_codes, state.v_codes + begin, count, uint8_t{0});
  const float m_scale = state.m_absmax[block];
  const float v_scale = state.v_absmax[block];
  unsigned m_largest = 0;  // bits of magnitudes, which compare like these
  unsigned v_largest = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const float grad = g[i] * f.gradient_scale;
    m[i] = f.beta1 * (tables.m.entry[m_codes[i]] * m_scale) + f.fresh1 * grad;
    v[i] = f.beta2 * (tables.v.entry[v_codes[i]] * v_scale) + f.fresh2 * grad * grad;
    if (fabsf(m[i]) <= FLT_MAX && v[i] <= FLT_MAX) {
      p[i] = p[i] * f.keep - f.step_size * m[i] / (sqrtf(v[i]) * f.inv_root2 + f.eps);
    } else {
      m[i] = v[i] = 0.0f;
    }
    m_largest = max(m_largest, __float_as_uint(fabsf(m[i])));
    v_largest = max(v_largest, __float_as_uint(v[i]));
  }
  store<kWhole>(state.p + begin, p, count);
  const float m_inverse = store_absmax(state.m_absmax + block, m_largest);
  const float v_inverse = store_absmax(state.v_absmax + block, v_largest);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int level = level_of(tables.m, fabsf(m[i] * m_inverse));
    const int below = kSignedZero - min(max(level, 1), kSignedZero);
    m_codes[i] = static_cast<uint8_t>(m[i] < 0.0f ? below : kSignedZero + level);
    v_codes[i] = static_cast<uint8_t>(level_of(tables.v, v[i] * v_inverse));
  }
  store<kWhole>(state.m_codes + begin, m_codes, count);
  store<kWhole>(state.v_codes + begin, v_codes, count);
}

__global__ void __launch_bounds__(kThreads, 4)
    adamw8bit_step(const __grid_constant__ StateList list, AdamWFactors factors) {
  __shared__ Tables tables;
  for (size_t i = threadIdx.x; i < sizeof(Tables) / 16; i += kThreads) {
    reinterpret_cast<uint4*>(&tables)[i] = reinterpret_cast<const uint4*>(&kTables)[i];
  }
  __syncthreads();
  const auto part = list.part_of_block(static_cast<int>(blockIdx.x));
  const State& state = part.item;
  const auto addresses =
      reinterpret_cast<uintptr_t>(state.p) | reinterpret_cast<uintptr_t>(state.g);
  const auto codes =
      reinterpret_cast<uintptr_t>(state.m_codes) | reinterpret_cast<uintptr_t>(state.v_codes);
  const bool aligned = addresses % 16 == 0 && codes % kPack == 0;
  const int64_t end = (part.begin + part.count + kBlock - 1) / kBlock;
  for (int64_t block = part.begin / kBlock + threadIdx.x / 32; block < end; block += kWarps) {
    if (aligned && (block + 1) * kBlock <= state.count) {
      update_block<true>(state, block, tables, factors);
    } else {
      update_block<false>(state, block, tables, factors);
    }
  }
}

}  // namespace

void adamw8bit(std::span<const AdamW8bitTensors> tensors, const AdamWFactors& factors,
               Stream& stream) {
  std::vector<State> states;
  states.reserve(tensors.size());
  for (const AdamW8bitTensors& t : tensors) {
    states.push_back({t.p.data<float>(), t.g.data<float>(), t.m_codes.data<uint8_t>(),
                      t.v_codes.data<uint8_t>(), t.m_absmax.data<float>(), t.v_absmax.data<float>(),
                      t.p.numel()});
  }
  for_each_list<StateList>(states, [&](const StateList& list) {
    adamw8bit_step<<<static_cast<unsigned>(list.blocks), kThreads, 0, native(stream)>>>(list,
                                                                                        factors);
    check_launch("adamw8bit");
  });
}

}  // namespace rankwise::cuda
