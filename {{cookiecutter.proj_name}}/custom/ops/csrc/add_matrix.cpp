// add_matrix: schema, and the kernels for the CPU.
#include "tensors.h"

namespace {

using namespace ops;

constexpr int64_t kGrain = 32768;  // elements that are worth a thread

Tensor add_matrix_cpu(const Tensor& a, const Tensor& b) {
  check_alike("add_matrix", a, b);
  Tensor x = torch::stable::contiguous(a), y = torch::stable::contiguous(b), sum = torch::stable::empty_like(x);
  dispatch_floating("add_matrix", a, [&]<typename scalar_t>() {
    const auto* px = static_cast<const scalar_t*>(x.const_data_ptr());
    const auto* py = static_cast<const scalar_t*>(y.const_data_ptr());
    auto* out = static_cast<scalar_t*>(sum.mutable_data_ptr());
    torch::stable::parallel_for(0, x.numel(), kGrain, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        out[i] = px[i] + py[i];
      }
    });
  });
  return sum;
}

// The gradient of a sum goes to both sides as it is, each with memory of its own.
std::tuple<Tensor, Tensor> add_matrix_backward_cpu(const Tensor& grad) {
  Tensor g = torch::stable::contiguous(grad);
  return {torch::stable::clone(g), torch::stable::clone(g)};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(project_ops, m) {
  m.def("add_matrix(Tensor a, Tensor b) -> Tensor");
  m.def("add_matrix_backward(Tensor grad) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(project_ops, CPU, m) {
  m.impl("add_matrix", TORCH_BOX(&add_matrix_cpu));
  m.impl("add_matrix_backward", TORCH_BOX(&add_matrix_backward_cpu));
}
