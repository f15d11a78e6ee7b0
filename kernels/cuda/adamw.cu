// SPDX-License-Identifier: Apache-2.0
// m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p = p keep - step_size m / (sqrt(v) inv_root2 +
// eps), over many tensors in one launch; the importance in the same pass, where there is one.
#include "kernels/cuda/adamw.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/tensor_list.cuh"

namespace rankwise::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kElementsPerBlock = 2048;

struct State {
  float* p;
  float* m;
  float* v;
  const float* g;
  int64_t count;
};
using StateList = TensorList<State, 80, kElementsPerBlock>;

// With the importance: s sensitivity, u uncertainty.
struct ScoredState {
  float* p;
  float* m;
  float* v;
  const float* g;
  int64_t count;
  float* s;
  float* u;
};
using ScoredList = TensorList<ScoredState, 64, kElementsPerBlock>;

// Returns the gradient that was used.
__device__ float update(float& p, float& m, float& v, float g, const AdamWFactors& f) {
  const float gradient = g * f.gradient_scale;
  m = f.beta1 * m + f.fresh1 * gradient;
  v = f.beta2 * v + f.fresh2 * gradient * gradient;
  p = p * f.keep - f.step_size * m / (sqrtf(v) * f.inv_root2 + f.eps);
  return gradient;
}

__device__ void update(float& p, float& m, float& v, float g, float& s, float& u,
                       const AdamWFactors& f) {
  const float now = fabsf(update(p, m, v, g, f) * p);
  s = f.sensitivity_beta * s + f.sensitivity_fresh * now;
  u = f.uncertainty_beta * u + f.uncertainty_fresh * fabsf(now - s);
}

__global__ void __launch_bounds__(kThreads)
    adamw_step(const __grid_constant__ StateList list, AdamWFactors factors) {
  const auto part = list.part_of_block(static_cast<int>(blockIdx.x));
  float* p = part.item.p + part.begin;
  float* m = part.item.m + part.begin;
  float* v = part.item.v + part.begin;
  const float* g = part.item.g + part.begin;
  const auto addresses = reinterpret_cast<uintptr_t>(p) | reinterpret_cast<uintptr_t>(m) |
                         reinterpret_cast<uintptr_t>(v) | reinterpret_cast<uintptr_t>(g);
  const int count = static_cast<int>(part.count);
  const int packs = addresses % 16 == 0 ? count / 4 : 0;
  for (int i = threadIdx.x; i < packs; i += kThreads) {
    float4 ps = reinterpret_cast<float4*>(p)[i];
    float4 ms = reinterpret_cast<float4*>(m)[i];
    float4 vs = reinterpret_cast<float4*>(v)[i];
    const float4 gs = reinterpret_cast<const float4*>(g)[i];
    update(ps.x, ms.x, vs.x, gs.x, factors);
    update(ps.y, ms.y, vs.y, gs.y, factors);
    update(ps.z, ms.z, vs.z, gs.z, factors);
    update(ps.w, ms.w, vs.w, gs.w, factors);
    reinterpret_cast<float4*>(p)[i] = ps;
    reinterpret_cast<float4*>(m)[i] = ms;
    reinterpret_cast<float4*>(v)[i] = vs;
  }
  for (int i = 4 * packs + threadIdx.x; i < count; i += kThreads) {
    update(p[i], m[i], v[i], g[i], factors);
  }
}

__global__ void __launch_bounds__(kThreads)
    adamw_step_scored(const __grid_constant__ ScoredList list, AdamWFactors factors) {
  const auto part = list.part_of_block(static_cast<int>(blockIdx.x));
  float* p = part.item.p + part.begin;
  float* m = part.item.m + part.begin;
  float* v = part.item.v + part.begin;
  const float* g = part.item.g + part.begin;
  float* s = part.item.s + part.begin;
  float* u = part.item.u + part.begin;
  const auto addresses = reinterpret_cast<uintptr_t>(p) | reinterpret_cast<uintptr_t>(m) |
                         reinterpret_cast<uintptr_t>(v) | reinterpret_cast<uintptr_t>(g) |
                         reinterpret_cast<uintptr_t>(s) | reinterpret_cast<uintptr_t>(u);
  const int count = static_cast<int>(part.count);
  const int packs = addresses % 16 == 0 ? count / 4 : 0;
  for (int i = threadIdx.x; i < packs; i += kThreads) {
    auto ps = load_pack<4>(p + 4 * i);
    auto ms = load_pack<4>(m + 4 * i);
    auto vs = load_pack<4>(v + 4 * i);
    const auto gs = load_pack<4>(g + 4 * i);
    auto ss = load_pack<4>(s + 4 * i);
    auto us = load_pack<4>(u + 4 * i);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      update(ps.v[k], ms.v[k], vs.v[k], gs.v[k], ss.v[k], us.v[k], factors);
    }
    store_pack<4>(p + 4 * i, ps);
    store_pack<4>(m + 4 * i, ms);
    store_pack<4>(v + 4 * i, vs);
    store_pack<4>(s + 4 * i, ss);
    store_pack<4>(u + 4 * i, us);
  }
  for (int i = 4 * packs + threadIdx.x; i < count; i += kThreads) {
    update(p[i], m[i], v[i], g[i], s[i], u[i], factors);
  }
}

}  // namespace

void adamw(std::span<const AdamWTensors> tensors, const AdamWFactors& factors, Stream& stream) {
  std::vector<State> states;
  std::vector<ScoredState> scored;
  states.reserve(tensors.size());
  for (const AdamWTensors& t : tensors) {
    const State state{t.p.data<float>(), t.m.data<float>(), t.v.data<float>(), t.g.data<float>(),
                      t.p.numel()};
    if (const auto& [s, u] = t.importance; s.defined()) {
      scored.push_back(
          {state.p, state.m, state.v, state.g, state.count, s.data<float>(), u.data<float>()});
    } else {
      states.push_back(state);
    }
  }
  for_each_list<StateList>(states, [&](const StateList& list) {
    adamw_step<<<static_cast<unsigned>(list.blocks), kThreads, 0, native(stream)>>>(list, factors);
    check_launch("adamw");
  });
  for_each_list<ScoredList>(scored, [&](const ScoredList& list) {
    adamw_step_scored<<<static_cast<unsigned>(list.blocks), kThreads, 0, native(stream)>>>(list,
                                                                                           factors);
    check_launch("adamw");
  });
}

}  // namespace rankwise::cuda
