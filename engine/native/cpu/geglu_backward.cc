// inner = gelu(gate) up, gelu(x) = x/2 (1 + t), t = tanh(u), u = sqrt(2/pi) (x + 0.044715 x^3):
// gelu'(x) = (1 + t)/2 + x/2 (1 - t^2) u', u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2).
#include "training.h"

namespace lorikeet::CPU_NS {

void geglu_backward_cpu(Tensor dgate_up, Tensor dinner, Tensor gate_up) {
  const int64_t I = dinner.cols;
  expect_shape("geglu_backward gate_up", gate_up, dinner.rows, 2 * I);
  expect_shape("geglu_backward dgate_up", dgate_up, dinner.rows, 2 * I);
#pragma omp parallel for if (dinner.rows > 2)
  for (int64_t t = 0; t < dinner.rows; t++) {
    const float *gate = gate_up.f32(t), *up = gate + I, *d = dinner.f32(t);
    float *dgate = dgate_up.f32(t), *dup = dgate + I;
    for (int64_t c = 0; c < I; c += kLanes) {
      const f32x16 g = load(gate + c), dc = load(d + c);
      const f32x16 th = tanh(0.7978845608028654f * (g + 0.044715f * g * g * g));
      const f32x16 du = 0.7978845608028654f * (1.0f + 0.134145f * g * g);
      const f32x16 half = 0.5f * (1.0f + th);
      const f32x16 u = load(up + c);  // before dup is written: dgate_up may be gate_up
      store(dgate + c, dc * u * (half + 0.5f * g * (1.0f - th * th) * du));
      store(dup + c, dc * g * half);
    }
  }
}

}  // namespace lorikeet::CPU_NS
