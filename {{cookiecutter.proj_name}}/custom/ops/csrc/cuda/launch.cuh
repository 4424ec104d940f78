// How a kernel is launched: on the tensor's device, on the current stream, and with a look at the outcome.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>

#include "../tensors.h"

// Declared by torch for builds with CUDA only; the stable headers of a CPU build leave it out.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace ops {

// Makes the tensor's device the current one for as long as this lives, and knows its current stream.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const {
    return stream_;
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

// A launch itself reports nothing: an error waits in the runtime until somebody asks.
inline void check_launch(const char* kernel) {
  cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, kernel, ": ", cudaGetErrorString(error));
}

inline int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace ops
