// What every operator needs: short names, and checks that name both sides.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/TensorAccessor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <string>
#include <type_traits>

namespace ops {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Half and bfloat16 are summed and multiplied in float, as torch does.
template <typename scalar_t>
using acc_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

template <typename scalar_t>
struct Restrict {
  using PtrType = scalar_t* __restrict__;
};

// A tensor of N dimensions as a kernel sees it: indexed [i][j], whatever its strides.
template <typename scalar_t, size_t N>
using Accessor = torch::headeronly::HeaderOnlyGenericPackedTensorAccessor<scalar_t, N, Restrict, int64_t>;

template <typename scalar_t, size_t N>
Accessor<scalar_t, N> access(const Tensor& tensor) {
  return Accessor<scalar_t, N>(
      static_cast<scalar_t*>(tensor.data_ptr()), tensor.sizes().data(), tensor.strides().data());
}

inline std::string describe(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t i = 0; i < tensor.dim(); i++) {
    text += (i ? ", " : "") + std::to_string(tensor.size(i));
  }
  return text + ") of type " + torch::headeronly::toString(tensor.scalar_type()) + " on device " +
      std::to_string(tensor.get_device_index());
}

// Shapes, types and devices agree.
inline void check_alike(const char* op, const Tensor& a, const Tensor& b) {
  bool alike = a.dim() == b.dim() && a.scalar_type() == b.scalar_type() && a.is_cuda() == b.is_cuda() &&
      a.get_device_index() == b.get_device_index();
  for (int64_t i = 0; alike && i < a.dim(); i++) {
    alike = a.size(i) == b.size(i);
  }
  STD_TORCH_CHECK(alike, op, ": expected two tensors alike, found ", describe(a), " and ", describe(b));
}

// (rows, channels) with a scale and a shift for each channel.
inline void check_affine(const char* op, const Tensor& x, const Tensor& scale, const Tensor& shift) {
  STD_TORCH_CHECK(x.dim() == 2 && scale.dim() == 1 && scale.size(0) == x.size(1),
                  op, ": expected x (rows, channels) and scale (channels), found ", describe(x), " and ", describe(scale));
  STD_TORCH_CHECK(x.scalar_type() == scale.scalar_type() && x.is_cuda() == scale.is_cuda() &&
                      x.get_device_index() == scale.get_device_index(),
                  op, ": expected one type and device, found ", describe(x), " and ", describe(scale));
  check_alike(op, scale, shift);
}

// Calls body<scalar_t>() with the tensor's type.
template <typename Body>
void dispatch_floating(const char* op, const Tensor& tensor, Body body) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return body.template operator()<double>();
    case ScalarType::Float:
      return body.template operator()<float>();
    case ScalarType::Half:
      return body.template operator()<Half>();
    case ScalarType::BFloat16:
      return body.template operator()<BFloat16>();
    default:
      STD_TORCH_CHECK(false, op, ": expected floating-point tensors, found ", describe(tensor));
  }
}

}  // namespace ops
