// scale_shift_relu on CUDA. Two-dimensional: a block is 32 channels wide, so that a warp reads neighbors, and 8 rows high.
#include "launch.cuh"

namespace {

using namespace ops;

constexpr int kWidth = 32, kHeight = 8;
constexpr int64_t kMaxRows = 4096;  // blocks along the rows, below the 65,535 that a grid's y may have

inline dim3 grid_for(int64_t rows, int64_t channels, int64_t most) {
  return dim3(static_cast<unsigned>(divide_up(channels, kWidth)),
              static_cast<unsigned>(std::min(divide_up(rows, kHeight), most)));
}

template <typename scalar_t>
__global__ void scale_shift_relu_kernel(
    Accessor<const scalar_t, 2> x, Accessor<const scalar_t, 1> scale, Accessor<const scalar_t, 1> shift,
    Accessor<scalar_t, 2> y, Accessor<bool, 2> mask, bool keep_mask) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kWidth + threadIdx.x;
  if (j >= x.size(1)) {
    return;
  }
  const acc_t<scalar_t> a = scale[j], b = shift[j];
  const int64_t stride = static_cast<int64_t>(gridDim.y) * kHeight;
  for (int64_t i = static_cast<int64_t>(blockIdx.y) * kHeight + threadIdx.y; i < x.size(0); i += stride) {
    const acc_t<scalar_t> value = static_cast<acc_t<scalar_t>>(x[i][j]) * a + b;
    const bool passes = !(value <= 0);  // NaN passes, as it does in torch
    y[i][j] = passes ? value : acc_t<scalar_t>(0);
    if (keep_mask) {
      mask[i][j] = passes;
    }
  }
}

// Each block sums its rows in shared memory; its part of the sums goes to a line of its own, so that no two blocks write
// to one place and the result is the same every time.
template <typename scalar_t>
__global__ void scale_shift_relu_backward_kernel(
    Accessor<const scalar_t, 2> grad, Accessor<const scalar_t, 2> x, Accessor<const scalar_t, 1> scale,
    Accessor<const bool, 2> mask, Accessor<scalar_t, 2> grad_x, Accessor<acc_t<scalar_t>, 3> sums) {
  __shared__ acc_t<scalar_t> shared[2][kHeight][kWidth];
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kWidth + threadIdx.x;
  acc_t<scalar_t> sum_scale = 0, sum_shift = 0;
  if (j < x.size(1)) {
    const acc_t<scalar_t> a = scale[j];
    const int64_t stride = static_cast<int64_t>(gridDim.y) * kHeight;
    for (int64_t i = static_cast<int64_t>(blockIdx.y) * kHeight + threadIdx.y; i < x.size(0); i += stride) {
      const acc_t<scalar_t> through = mask[i][j] ? static_cast<acc_t<scalar_t>>(grad[i][j]) : acc_t<scalar_t>(0);
      grad_x[i][j] = through * a;
      sum_scale += through * static_cast<acc_t<scalar_t>>(x[i][j]);
      sum_shift += through;
    }
  }
  shared[0][threadIdx.y][threadIdx.x] = sum_scale;
  shared[1][threadIdx.y][threadIdx.x] = sum_shift;
  __syncthreads();
  if (threadIdx.y < 2 && j < x.size(1)) {
    acc_t<scalar_t> sum = 0;
    for (int k = 0; k < kHeight; k++) {
      sum += shared[threadIdx.y][k][threadIdx.x];
    }
    sums[threadIdx.y][blockIdx.y][j] = sum;
  }
}

std::tuple<Tensor, Tensor> scale_shift_relu_cuda(
    const Tensor& x, const Tensor& scale, const Tensor& shift, bool keep_mask) {
  check_affine("scale_shift_relu", x, scale, shift);
  OnDevice device(x);
  const int64_t rows = x.size(0), channels = x.size(1);
  Tensor y = torch::stable::new_empty(x, {rows, channels});
  Tensor mask = torch::stable::new_empty(x, {keep_mask ? rows : 0, channels}, ScalarType::Bool);
  if (x.numel() > 0) {
    dispatch_floating("scale_shift_relu", x, [&]<typename scalar_t>() {
      scale_shift_relu_kernel<scalar_t>
          <<<grid_for(rows, channels, kMaxRows), dim3(kWidth, kHeight), 0, device.stream()>>>(
              access<const scalar_t, 2>(x), access<const scalar_t, 1>(scale), access<const scalar_t, 1>(shift),
              access<scalar_t, 2>(y), access<bool, 2>(mask), keep_mask);
      check_launch("scale_shift_relu_kernel");
    });
  }
  return {y, mask};
}

std::tuple<Tensor, Tensor, Tensor> scale_shift_relu_backward_cuda(
    const Tensor& grad, const Tensor& x, const Tensor& scale, const Tensor& mask) {
  check_alike("scale_shift_relu_backward", grad, x);
  OnDevice device(x);
  const int64_t rows = x.size(0), channels = x.size(1);
  const dim3 grid = grid_for(rows, channels, 256);
  const ScalarType type = x.scalar_type();
  Tensor grad_x = torch::stable::new_empty(x, {rows, channels});
  Tensor sums = torch::stable::new_zeros(
      x, {2, std::max<int64_t>(grid.y, 1), channels}, type == ScalarType::Double ? type : ScalarType::Float);
  if (x.numel() > 0) {
    dispatch_floating("scale_shift_relu_backward", x, [&]<typename scalar_t>() {
      scale_shift_relu_backward_kernel<scalar_t><<<grid, dim3(kWidth, kHeight), 0, device.stream()>>>(
          access<const scalar_t, 2>(grad), access<const scalar_t, 2>(x), access<const scalar_t, 1>(scale),
          access<const bool, 2>(mask), access<scalar_t, 2>(grad_x), access<acc_t<scalar_t>, 3>(sums));
      check_launch("scale_shift_relu_backward_kernel");
    });
  }
  const int64_t by_block = 1;  // the dimension of the blocks
  Tensor total = torch::stable::to(torch::stable::sum(sums, torch::headeronly::IntHeaderOnlyArrayRef(&by_block, 1)), type);
  // As tensors of their own: what an operator returns must not share memory.
  return {grad_x, torch::stable::clone(torch::stable::select(total, 0, 0)),
          torch::stable::clone(torch::stable::select(total, 0, 1))};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(project_ops, CUDA, m) {
  m.impl("scale_shift_relu", TORCH_BOX(&scale_shift_relu_cuda));
  m.impl("scale_shift_relu_backward", TORCH_BOX(&scale_shift_relu_backward_cuda));
}
