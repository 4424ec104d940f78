// scale_shift_relu: y = max(0, x * scale + shift) over (rows, channels), and its gradients, for the CPU.
#include "tensors.h"

namespace {

using namespace ops;

std::tuple<Tensor, Tensor> scale_shift_relu_cpu(
    const Tensor& x, const Tensor& scale, const Tensor& shift, bool keep_mask) {
  check_affine("scale_shift_relu", x, scale, shift);
  int64_t rows = x.size(0), channels = x.size(1);
  Tensor y = torch::stable::new_empty(x, {rows, channels});
  // What backward needs, and nobody else: which values passed.
  Tensor mask = torch::stable::new_empty(x, {keep_mask ? rows : 0, channels}, ScalarType::Bool);
  dispatch_floating("scale_shift_relu", x, [&]<typename scalar_t>() {
    auto in = access<scalar_t, 2>(x), out = access<scalar_t, 2>(y);
    auto a = access<scalar_t, 1>(scale), b = access<scalar_t, 1>(shift);
    auto passed = access<bool, 2>(mask);
    torch::stable::parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        for (int64_t j = 0; j < channels; j++) {
          auto value = static_cast<acc_t<scalar_t>>(in[i][j]) * a[j] + b[j];
          out[i][j] = value > 0 ? value : (value == value ? 0 : value);  // NaN stays NaN
          if (keep_mask) {
            passed[i][j] = !(value <= 0);
          }
        }
      }
    });
  });
  return {y, mask};
}

std::tuple<Tensor, Tensor, Tensor> scale_shift_relu_backward_cpu(
    const Tensor& grad, const Tensor& x, const Tensor& scale, const Tensor& mask) {
  check_alike("scale_shift_relu_backward", grad, x);
  int64_t rows = x.size(0), channels = x.size(1);
  Tensor grad_x = torch::stable::new_empty(x, {rows, channels});
  Tensor grad_scale = torch::stable::new_empty(x, {channels}), grad_shift = torch::stable::new_empty(x, {channels});
  dispatch_floating("scale_shift_relu_backward", x, [&]<typename scalar_t>() {
    auto g = access<scalar_t, 2>(grad), in = access<scalar_t, 2>(x), gx = access<scalar_t, 2>(grad_x);
    auto a = access<scalar_t, 1>(scale), ga = access<scalar_t, 1>(grad_scale), gb = access<scalar_t, 1>(grad_shift);
    auto passed = access<bool, 2>(mask);
    torch::stable::parallel_for(0, channels, 8, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; j++) {
        acc_t<scalar_t> sum_scale = 0, sum_shift = 0, factor = a[j];
        for (int64_t i = 0; i < rows; i++) {
          acc_t<scalar_t> through = passed[i][j] ? static_cast<acc_t<scalar_t>>(g[i][j]) : 0;
          gx[i][j] = through * factor;
          sum_scale += through * static_cast<acc_t<scalar_t>>(in[i][j]);
          sum_shift += through;
        }
        ga[j] = sum_scale;
        gb[j] = sum_shift;
      }
    });
  });
  return {grad_x, grad_scale, grad_shift};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(project_ops, m) {
  m.def("scale_shift_relu(Tensor x, Tensor scale, Tensor shift, bool keep_mask) -> (Tensor, Tensor)");
  m.def("scale_shift_relu_backward(Tensor grad, Tensor x, Tensor scale, Tensor mask) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(project_ops, CPU, m) {
  m.impl("scale_shift_relu", TORCH_BOX(&scale_shift_relu_cpu));
  m.impl("scale_shift_relu_backward", TORCH_BOX(&scale_shift_relu_backward_cpu));
}
