// add_matrix on CUDA. One-dimensional: the sum does not care where a row ends.
#include <cstdint>

#include "launch.cuh"

namespace {

using namespace ops;

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 16;  // beyond that each thread takes several turns: a grid-stride loop

// So many values that a load or store moves 16 bytes, the most that one instruction can.
template <typename scalar_t>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(scalar_t);
  scalar_t values[size];
};

template <typename scalar_t>
__device__ scalar_t add(scalar_t a, scalar_t b) {
  return static_cast<scalar_t>(static_cast<acc_t<scalar_t>>(a) + static_cast<acc_t<scalar_t>>(b));
}

template <typename scalar_t>
__global__ void add_packs(const Pack<scalar_t>* a, const Pack<scalar_t>* b, Pack<scalar_t>* sum, int64_t packs) {
  const int64_t stride = static_cast<int64_t>(blockDim.x) * gridDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < packs; i += stride) {
    Pack<scalar_t> x = a[i];
    const Pack<scalar_t> y = b[i];
#pragma unroll
    for (int j = 0; j < Pack<scalar_t>::size; j++) {
      x.values[j] = add(x.values[j], y.values[j]);
    }
    sum[i] = x;
  }
}

template <typename scalar_t>
__global__ void add_values(const scalar_t* a, const scalar_t* b, scalar_t* sum, int64_t begin, int64_t end) {
  const int64_t stride = static_cast<int64_t>(blockDim.x) * gridDim.x;
  for (int64_t i = begin + static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < end; i += stride) {
    sum[i] = add(a[i], b[i]);
  }
}

template <typename scalar_t>
__global__ void copy_twice(const scalar_t* grad, scalar_t* a, scalar_t* b, int64_t count) {
  const int64_t stride = static_cast<int64_t>(blockDim.x) * gridDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    const scalar_t value = grad[i];
    a[i] = value;
    b[i] = value;
  }
}

inline int blocks_for(int64_t items) {
  return static_cast<int>(std::min(divide_up(items, kThreads), kMaxBlocks));
}

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

Tensor add_matrix_cuda(const Tensor& a, const Tensor& b) {
  check_alike("add_matrix", a, b);
  OnDevice device(a);
  Tensor x = torch::stable::contiguous(a), y = torch::stable::contiguous(b), sum = torch::stable::empty_like(x);
  const int64_t count = x.numel();
  if (count == 0) {
    return sum;  // a grid of no blocks is an error
  }
  dispatch_floating("add_matrix", a, [&]<typename scalar_t>() {
    const auto* px = static_cast<const scalar_t*>(x.const_data_ptr());
    const auto* py = static_cast<const scalar_t*>(y.const_data_ptr());
    auto* out = static_cast<scalar_t*>(sum.mutable_data_ptr());
    const bool aligned = is_aligned(px) && is_aligned(py) && is_aligned(out);
    const int64_t packs = aligned ? count / Pack<scalar_t>::size : 0, done = packs * Pack<scalar_t>::size;
    if (packs > 0) {
      add_packs<scalar_t><<<blocks_for(packs), kThreads, 0, device.stream()>>>(
          reinterpret_cast<const Pack<scalar_t>*>(px), reinterpret_cast<const Pack<scalar_t>*>(py),
          reinterpret_cast<Pack<scalar_t>*>(out), packs);
      check_launch("add_packs");
    }
    if (done < count) {
      add_values<scalar_t><<<blocks_for(count - done), kThreads, 0, device.stream()>>>(px, py, out, done, count);
      check_launch("add_values");
    }
  });
  return sum;
}

std::tuple<Tensor, Tensor> add_matrix_backward_cuda(const Tensor& grad) {
  OnDevice device(grad);
  Tensor g = torch::stable::contiguous(grad);
  Tensor a = torch::stable::empty_like(g), b = torch::stable::empty_like(g);
  const int64_t count = g.numel();
  if (count > 0) {
    dispatch_floating("add_matrix_backward", grad, [&]<typename scalar_t>() {
      copy_twice<scalar_t><<<blocks_for(count), kThreads, 0, device.stream()>>>(
          static_cast<const scalar_t*>(g.const_data_ptr()), static_cast<scalar_t*>(a.mutable_data_ptr()),
          static_cast<scalar_t*>(b.mutable_data_ptr()), count);
      check_launch("copy_twice");
    });
  }
  return {a, b};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(project_ops, CUDA, m) {
  m.impl("add_matrix", TORCH_BOX(&add_matrix_cuda));
  m.impl("add_matrix_backward", TORCH_BOX(&add_matrix_backward_cuda));
}
