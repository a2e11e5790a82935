// out = gelu_tanh(gate) * up, gelu_tanh(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
#include "ops.h"

namespace lorikeet::CPU_NS {

void geglu_cpu(Tensor out, Tensor gate_up) {
  const int64_t I = out.cols;
  expect_shape("geglu gate_up", gate_up, out.rows, 2 * I);
  const int64_t n_parts = out.rows > 4 ? out.rows : out.rows * 2;  // one token is shared by two threads
  const int64_t parts_of_row = n_parts / out.rows, width = (I / parts_of_row + kLanes - 1) / kLanes * kLanes;
#pragma omp parallel for if (out.rows > 2)
  for (int64_t p = 0; p < n_parts; p++) {
    const int64_t t = p / parts_of_row, begin = p % parts_of_row * width, end = begin + width < I ? begin + width : I;
    const float *gate = gate_up.f32(t), *up = gate + I;
    for (int64_t c = begin; c < end; c += kLanes) {
      const f32x16 g = load(gate + c);
      const f32x16 inner = 0.7978845608028654f * (g + 0.044715f * g * g * g);
      store_act(out.row(t), out.dtype, c, 0.5f * g * (1.0f + tanh(inner)) * load(up + c));
    }
  }
}

}  // namespace lorikeet::CPU_NS
