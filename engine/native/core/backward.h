// The backward pass of Gemma 3, once, over training_ops.h: forward.cc read from its end. Gradients go to A, B, magnitudes, token rows
// and saved matrices; base weights and norms are frozen.
#pragma once
#include "tape.h"

namespace lorikeet {

/// Sees d loss / d stream [T, H] f32 entering a layer; n_layers = after the last. For goldens.
using GradientTap = std::function<void(int layer, const Tensor& dx)>;

/// From dhidden (rows of the supervised tokens `rows`, in step.tape.gradients) down to the lowest trained parameter.
void backward(TrainingStep& step, TapedForward& forward, Checkpointing policy, std::span<const int32_t> rows, const Pause& pause,
              const GradientTap& tap = {});

}  // namespace lorikeet
