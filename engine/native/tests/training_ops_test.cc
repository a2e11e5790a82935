// Every training operation but the loss against differences of its forward formula in double precision, on each instruction set of this
// machine, in fp32 and bf16. Prints "N passed, N failed".
#include <array>

#include "../core/nf4.h"
#include "../core/philox.h"
#include "training_testing.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

// ---- linear ----

void test_linear(std::vector<Setting>& settings) {
  for (const WeightFormat format : {WeightFormat::kNF4, WeightFormat::kBF16, WeightFormat::kF32})
    for (const auto& [T, N, K] :
         std::vector<std::array<int64_t, 3>>{{1, 4, 64}, {31, 36, 128}, {33, 260, 640}, {257, 1100, 192}, {5, 4096, 640}}) {
      std::vector<float> values = rounded(normal(N * K, 0.05f));
      std::vector<uint8_t> packed(N * K / 2);
      std::vector<float> absmax(N * K / 64);
      std::vector<bf16> b16(N * K);
      HostMatrix matrix{format, N, K, nullptr, nullptr, nullptr};
      if (format == WeightFormat::kNF4) {
        nf4_quantize(values.data(), N * K, packed.data(), absmax.data());
        nf4_dequantize_bf16(packed.data(), absmax.data(), N * K, b16.data());
        for (int64_t i = 0; i < N * K; i++) values[i] = to_f32(b16[i]);
        matrix.data = packed.data();
        matrix.absmax = absmax.data();
      } else {
        for (int64_t i = 0; i < N * K; i++) b16[i] = to_bf16(values[i]);
        matrix.data = format == WeightFormat::kF32 ? (const void*)values.data() : b16.data();
      }
      const std::vector<float> dout = normal(T * N), before = normal(T * K);
      Values want(T * K);  // a linear map: the difference quotient is this sum
      for (int64_t t = 0; t < T; t++)
        for (int64_t n = 0; n < N; n++)
          for (int64_t k = 0; k < K; k++) want[t * K + k] += double(dout[t * N + n]) * values[n * K + k];
      on_every_setting(
          settings, "linear_backward " + std::to_string(T) + "x" + std::to_string(N) + "x" + std::to_string(K), kRounded,
          [&](Setting& s) {
            const auto w = s.backend->make_linear({&matrix, 1});
            std::vector<float> set(T * K, NAN), added = before, d = dout;
            s.ops->linear_backward(view(set, K), view(d, N), *w, false);
            s.ops->linear_backward(view(added, K), view(d, N), *w, true);
            for (int64_t i = 0; i < T * K; i++) added[i] -= before[i];
            return std::vector{set, added};
          },
          [&](Setting& s, const auto& got) {
            for (const auto& g : got) check(worst(g, want) < s.rounded_tolerance(kRounded), s.name + " linear_backward is dout W");
          });
    }
}

// ---- norms, rope, geglu ----

void rmsnorm(const double* x, const std::vector<float>& w, int64_t n, double* out) {
  double sum = 0;
  for (int64_t c = 0; c < n; c++) sum += x[c] * x[c];
  for (int64_t c = 0; c < n; c++) out[c] = x[c] / std::sqrt(sum / n + 1e-6) * (1 + double(w[c]));
}

void test_norms(std::vector<Setting>& settings) {
  for (const auto& [T, H] : std::vector<std::pair<int64_t, int64_t>>{{1, 64}, {31, 128}, {33, 640}, {257, 96}}) {
    std::vector<float> x = normal(T * H, 2), y = normal(T * H), post = normal(H, 0.3f), next = normal(H, 0.3f);
    std::vector<float> dout = normal(T * H), dx_in = normal(T * H);
    const Forward norm = [&, T = T, H = H](const std::vector<Values>& in) {
      Values out(T * H);
      for (int64_t t = 0; t < T; t++) rmsnorm(&in[0][t * H], next, H, &out[t * H]);
      return out;
    };
    const Differences by_x(norm, {doubles(x)}, 0, dout);
    // Outputs of the residual: the updated x (whose gradient is dx_in) and its norm.
    const Forward residual = [&, T = T, H = H](const std::vector<Values>& in) {
      Values out(2 * T * H), normed(H);
      for (int64_t t = 0; t < T; t++) {
        rmsnorm(&in[1][t * H], post, H, normed.data());
        for (int64_t c = 0; c < H; c++) out[t * H + c] = in[0][t * H + c] + normed[c];
        rmsnorm(&out[t * H], next, H, &out[(T + t) * H]);
      }
      return out;
    };
    std::vector<float> both = dx_in;
    both.insert(both.end(), dout.begin(), dout.end());
    const Values updated = residual({doubles(x), doubles(y)});
    std::vector<float> after(updated.begin(), updated.begin() + T * H);
    const Differences by_old(residual, {doubles(x), doubles(y)}, 0, both), by_y(residual, {doubles(x), doubles(y)}, 1, both);
    on_every_setting(settings, "rmsnorm_backward of " + std::to_string(T), kSum,
                     [&](Setting& s) {
                       std::vector<float> dx(T * H), dx2 = dx_in, dy(T * H, NAN);
                       s.ops->rmsnorm_backward(view(dx, H), view(dout, H), view(x, H), next.data(), 1e-6f);
                       s.ops->residual_rmsnorm_backward(view(dx2, H), view(dy, H), view(dout, H), view(after, H), view(y, H), post.data(),
                                                        next.data(), 1e-6f);
                       return std::vector{dx, dx2, dy};
                     },
                     [&](Setting& s, const auto& got) {
                       by_x.compare(s.name + " rmsnorm_backward", got[0], kSum);
                       by_old.compare(s.name + " residual_rmsnorm_backward dx", got[1], kSum);
                       by_y.compare(s.name + " residual_rmsnorm_backward dy", got[2], kSum);
                     });
  }
}

void test_rope(std::vector<Setting>& settings) {
  for (const auto& [T, n_heads, n_kv, D] :
       std::vector<std::array<int64_t, 4>>{{1, 1, 1, 32}, {31, 4, 2, 64}, {33, 2, 1, 96}, {257, 4, 1, 64}}) {
    const int64_t width = (n_heads + 2 * n_kv) * D, out_width = width;
    std::vector<float> qkv = normal(T * width), q_norm = normal(D, 0.3f), k_norm = normal(D, 0.3f), table(T * D);
    for (int64_t t = 0; t < T; t++)
      for (int64_t i = 0; i < D / 2; i++) {
        const double angle = double(t % 40) * std::pow(1e4, -2.0 * i / D);
        table[t * D + i] = float(std::cos(angle));
        table[t * D + D / 2 + i] = float(std::sin(angle));
      }
    const Forward forward = [&, T = T, n_heads = n_heads, n_kv = n_kv, D = D](const std::vector<Values>& in) {
      Values out = in[0], y(D);
      for (int64_t t = 0; t < T; t++)
        for (int64_t h = 0; h < n_heads + n_kv; h++) {
          double* to = &out[t * width + h * D];
          rmsnorm(&in[0][t * width + h * D], h < n_heads ? q_norm : k_norm, D, y.data());
          for (int64_t i = 0; i < D / 2; i++) {
            const double cos = table[t * D + i], sin = table[t * D + D / 2 + i];
            to[i] = y[i] * cos - y[i + D / 2] * sin;
            to[i + D / 2] = y[i + D / 2] * cos + y[i] * sin;
          }
        }
      return out;
    };
    std::vector<float> dout = normal(T * out_width);
    const Values want = forward({doubles(qkv)});
    const Differences by_qkv(forward, {doubles(qkv)}, 0, dout);
    const auto part = [&, T = T](const std::vector<float>& rows, int64_t begin, int64_t n) {
      std::vector<float> out;
      for (int64_t t = 0; t < T; t++) out.insert(out.end(), rows.begin() + t * width + begin, rows.begin() + t * width + begin + n);
      return out;
    };
    on_every_setting(
        settings, "qk_norm_rope of " + std::to_string(T), kRounded,
        [&, T = T, n_heads = n_heads, n_kv = n_kv, D = D](Setting& s) {
          const TrainingOps::QkvShape shape{view(table, D), q_norm.data(), k_norm.data(), 1e-6f, int(n_heads), int(n_kv), int(D)};
          Rows q(s.act, T, n_heads * D), k(s.act, T, n_kv * D), v(s.act, T, n_kv * D);
          s.ops->qk_norm_rope(q.tensor(), k.tensor(), v.tensor(), view(qkv, width), shape);
          std::vector<float> dq = part(dout, 0, n_heads * D), dk = part(dout, n_heads * D, n_kv * D);
          std::vector<float> dv = part(dout, (n_heads + n_kv) * D, n_kv * D), dqkv(T * width, NAN);
          s.ops->qk_norm_rope_backward(view(dqkv, width), view(dq, n_heads * D), view(dk, n_kv * D), view(dv, n_kv * D), view(qkv, width),
                                       shape);
          return std::vector{q.read(), k.read(), v.read(), dqkv};
        },
        [&, T = T, n_heads = n_heads, n_kv = n_kv, D = D](Setting& s, const auto& got) {
          std::vector<float> together(T * width);
          const int64_t begins[] = {0, n_heads * D, (n_heads + n_kv) * D, width};
          for (int p = 0; p < 3; p++)
            for (int64_t t = 0; t < T; t++)
              std::copy_n(&got[p][t * (begins[p + 1] - begins[p])], begins[p + 1] - begins[p], &together[t * width + begins[p]]);
          check(worst(together, want) < s.rounded_tolerance(kRounded), s.name + " qk_norm_rope");
          by_qkv.compare(s.name + " qk_norm_rope_backward", got[3], kSum);
        });
  }
}

void test_geglu(std::vector<Setting>& settings) {
  for (const auto& [T, I] : std::vector<std::pair<int64_t, int64_t>>{{1, 16}, {31, 320}, {33, 2048}, {257, 48}}) {
    std::vector<float> gate_up = normal(T * 2 * I, 2), dinner = normal(T * I);
    const Forward forward = [&, T = T, I = I](const std::vector<Values>& in) {
      Values out(T * I);
      for (int64_t t = 0; t < T; t++)
        for (int64_t c = 0; c < I; c++) {
          const double g = in[0][t * 2 * I + c];
          out[t * I + c] = 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * in[0][t * 2 * I + I + c];
        }
      return out;
    };
    const Differences by_input(forward, {doubles(gate_up)}, 0, dinner);
    on_every_setting(settings, "geglu_backward of " + std::to_string(T), kSum,
                     [&, T = T, I = I](Setting& s) {
                       std::vector<float> d(T * 2 * I, NAN);
                       s.ops->geglu_backward(view(d, 2 * I), view(dinner, I), view(gate_up, 2 * I));
                       return std::vector<std::vector<float>>{d};
                     },
                     [&](Setting& s, const auto& got) { by_input.compare(s.name + " geglu_backward", got[0], kSum); });
  }
}

// ---- LoRA, DoRA, dropout ----

/// The mask that the ops use, read from lora_forward with A = one row that picks an element.
std::vector<float> mask_of(Setting& s, int64_t T, int64_t K, const Dropout& dropout) {
  Rows ones(s.act, std::vector<float>(T * K, 1.0f), K);
  std::vector<float> mask(T * K), a(K * K), b(K, 0.0f), kept(T * K), out(T);
  for (int64_t k = 0; k < K; k++) a[k * K + k] = 1;
  s.ops->lora_forward(view(out, 1), view(kept, K), ones.tensor(), TrainedPair{view(a, K), view(b, K), 1, dropout});
  return kept;
}

void test_lora(std::vector<Setting>& settings) {
  for (const auto& [T, r, K, N] :
       std::vector<std::array<int64_t, 4>>{{1, 1, 64, 4}, {31, 3, 128, 36}, {33, 16, 640, 260}, {257, 33, 192, 64}, {100, 64, 640, 1024}})
    for (const float p : {0.0f, 0.25f}) {
      const Dropout dropout{p, 5, 1000, 21};
      std::vector<float> x = rounded(normal(T * K)), a = normal(r * K, 0.1f), b = normal(N * r, 0.1f), dout = normal(T * N),
                         base = normal(T * N);
      const std::vector<float> mask = p > 0 ? mask_of(settings[0], T, K, dropout) : std::vector<float>(T * K, 1);
      const double scale = 0.5;
      const Forward forward = [&, T = T, r = r, K = K, N = N](const std::vector<Values>& in) {
        Values out(T * N);
        for (int64_t t = 0; t < T; t++)
          for (int64_t i = 0; i < r; i++) {
            double h = 0;
            for (int64_t k = 0; k < K; k++) h += in[0][t * K + k] * mask[t * K + k] * in[1][i * K + k];
            for (int64_t n = 0; n < N; n++) out[t * N + n] += scale * h * in[2][n * r + i];
          }
        return out;
      };
      const std::vector<Values> inputs = {doubles(x), doubles(a), doubles(b)};
      const Values want = forward(inputs);
      const Differences by_x(forward, inputs, 0, dout, 8), by_a(forward, inputs, 1, dout, 8), by_b(forward, inputs, 2, dout, 8);
      const std::string what = "lora " + std::to_string(T) + " r" + std::to_string(r) + " dropout " + std::to_string(p);
      on_every_setting(settings, what, kRounded,
                       [&, T = T, r = r, K = K, N = N](Setting& s) {
                         Rows rows(s.act, x, K);
                         const TrainedPair pair{view(a, K), view(b, r), float(scale), dropout};
                         std::vector<float> out = base, kept(T * r, NAN), dx(T * K), da(r * K), db(N * r);
                         s.ops->lora_forward(view(out, N), view(kept, r), rows.tensor(), pair);
                         for (int64_t i = 0; i < T * N; i++) out[i] -= base[i];
                         s.ops->lora_backward(view(dx, K), view(da, K), view(db, r), view(dout, N), view(kept, r), rows.tensor(), pair);
                         return std::vector{out, kept, dx, da, db};
                       },
                       [&](Setting& s, const auto& got) {
                         const double tolerance = s.rounded_tolerance(kRounded);
                         check(worst(got[0], want) < tolerance, s.name + " lora_forward differs by " + std::to_string(worst(got[0], want)));
                         by_x.compare(s.name + " " + what + " dx", got[2], tolerance);
                         by_a.compare(s.name + " " + what + " da", got[3], tolerance);
                         by_b.compare(s.name + " " + what + " db", got[4], tolerance);
                       });
    }
}

void test_dropout(std::vector<Setting>& settings) {
  const int64_t T = 512, K = 256;
  const Dropout dropout{0.1f, 42, 0, 3};
  const std::vector<float> mask = mask_of(settings[0], T, K, dropout);
  int64_t dropped = 0, pairs = 0, below = 0;
  bool scaled = true;
  for (int64_t i = 0; i < T * K; i++) {
    dropped += mask[i] == 0;
    pairs += mask[i] == 0 && mask[(i + 1) % (T * K)] == 0;
    below += mask[i] == 0 && mask[(i + K) % (T * K)] == 0;
    scaled &= mask[i] == 0 || std::fabs(mask[i] - 1 / 0.9f) < 1e-6;
  }
  const auto fits = [&](int64_t n, double p) { return std::fabs(double(n) - p * T * K) < 5 * std::sqrt(p * (1 - p) * T * K); };
  check(fits(dropped, 0.1) && fits(pairs, 0.01) && fits(below, 0.01), "dropout drops its share, neighbours independently");
  check(scaled, "dropout divides what stays by 1 - p");
  bool of_philox = true;
  for (int64_t i = 0; i < T * K; i++) {
    const int64_t k = i % K, j = k / 64 * 16 + k % 16;
    const uint32_t word = philox(42, uint64_t(i / K), uint64_t(3) | uint64_t(j) << 32)[size_t(k % 64 / 16)];
    of_philox &= (mask[i] == 0) == (word < uint32_t(double(0.1f) * 4294967296.0));
  }
  check(of_philox, "dropout is the counter's philox");
  for (Setting& s : settings) {
    const std::vector<float> own = mask_of(s, T, K, dropout), later = mask_of(s, T - 100, K, Dropout{0.1f, 42, 100, 3});
    const auto same_zeros = [](const float* a, const float* b, int64_t n) {
      for (int64_t i = 0; i < n; i++)
        if ((a[i] == 0) != (b[i] == 0)) return false;
      return true;
    };
    check(same_zeros(own.data(), mask.data(), T * K), s.name + " drops the same elements as plain code");
    // Shapes are equal, so that only what the draw depends on tells one call from the one before.
    for (const Dropout& other : {Dropout{0.1f, 42, 1, 3}, Dropout{0.1f, 43, 0, 3}, Dropout{0.2f, 42, 0, 3}}) {
      check(!same_zeros(mask_of(s, T, K, other).data(), mask.data(), T * K), s.name + " drops others at another token, seed or rate");
      check(same_zeros(mask_of(s, T, K, dropout).data(), mask.data(), T * K), s.name + " drops the same again after others");
    }
    check(same_zeros(later.data(), mask.data() + 100 * K, (T - 100) * K), s.name + " drops by the run's token, whatever the micro-batch");
    check(!same_zeros(mask_of(s, T, K, Dropout{0.1f, 42, 0, 4}).data(), mask.data(), T * K), s.name + " drops others in another module");
    check(!same_zeros(mask_of(s, T, K, Dropout{0.1f, 43, 0, 3}).data(), mask.data(), T * K), s.name + " drops others with another seed");
  }
}

void test_dora(std::vector<Setting>& settings) {
  for (const auto& [T, N] : std::vector<std::pair<int64_t, int64_t>>{{1, 4}, {31, 33}, {257, 260}}) {
    std::vector<float> y = normal(T * N), magnitude = normal(N), norm = normal(N), dout = normal(T * N);
    for (int64_t n = 0; n < N; n++) magnitude[n] = 0.5f + std::fabs(magnitude[n]), norm[n] = 0.5f + std::fabs(norm[n]);
    const Forward forward = [&, T = T, N = N](const std::vector<Values>& in) {
      Values out(T * N);
      for (int64_t i = 0; i < T * N; i++) out[i] = in[0][i] * in[1][i % N] / norm[i % N];
      return out;
    };
    const Differences by_y(forward, {doubles(y), doubles(magnitude)}, 0, dout), by_m(forward, {doubles(y), doubles(magnitude)}, 1, dout);
    on_every_setting(settings, "dora of " + std::to_string(T), kSum,
                     [&, N = N](Setting& s) {
                       std::vector<float> out = y, d = dout, dm(N);
                       s.ops->dora_scale(view(out, N), magnitude.data(), norm.data());
                       s.ops->dora_backward(dm.data(), view(d, N), view(out, N), magnitude.data(), norm.data());
                       return std::vector{out, d, dm};
                     },
                     [&](Setting& s, const auto& got) {
                       check(worst(got[0], forward({doubles(y), doubles(magnitude)})) < kSum, s.name + " dora_scale");
                       by_y.compare(s.name + " dora_backward dout", got[1], kSum);
                       by_m.compare(s.name + " dora_backward dmagnitude", got[2], kSum);
                     });
  }
}

// ---- attention ----

void test_attention(std::vector<Setting>& settings) {
  struct Case { std::vector<int32_t> starts; int n_heads, n_kv, D, window; };
  for (const Case& c : {Case{{0, 1}, 1, 1, 32, 0}, Case{{0, 31, 64}, 4, 2, 64, 0}, Case{{0, 33, 34, 161}, 2, 1, 96, 17},
                        Case{{0, 257}, 4, 1, 64, 64}, Case{{0, 5, 70}, 4, 1, 256, 0}}) {
    const int64_t T = c.starts.back(), wide = c.n_heads * c.D, narrow = c.n_kv * c.D;
    const float scale = 1 / std::sqrt(float(c.D));
    std::vector<float> q = rounded(normal(T * wide, 2)), k = rounded(normal(T * narrow)), v = rounded(normal(T * narrow)),
                       dout = normal(T * wide);
    const Forward forward = [&](const std::vector<Values>& in) {
      Values out(T * wide);
      for (size_t d = 0; d + 1 < c.starts.size(); d++)
        for (int64_t t = c.starts[d]; t < c.starts[d + 1]; t++)
          for (int64_t h = 0; h < c.n_heads; h++) {
            const int64_t kv = h / (c.n_heads / c.n_kv), first = c.window ? std::max<int64_t>(c.starts[d], t - c.window + 1) : c.starts[d];
            Values p;
            double sum = 0;
            for (int64_t j = first; j <= t; j++) {
              double score = 0;
              for (int64_t e = 0; e < c.D; e++) score += in[0][t * wide + h * c.D + e] * in[1][j * narrow + kv * c.D + e];
              p.push_back(std::exp(score * scale));
              sum += p.back();
            }
            for (int64_t j = first; j <= t; j++)
              for (int64_t e = 0; e < c.D; e++) out[t * wide + h * c.D + e] += p[j - first] / sum * in[2][j * narrow + kv * c.D + e];
          }
      return out;
    };
    const std::vector<Values> inputs = {doubles(q), doubles(k), doubles(v)};
    const Values want = forward(inputs);
    const Differences by_q(forward, inputs, 0, dout, 8), by_k(forward, inputs, 1, dout, 8), by_v(forward, inputs, 2, dout, 8);
    const std::string what = "attention of " + std::to_string(T) + " window " + std::to_string(c.window);
    on_every_setting(settings, what, kRoundedTwice,
                     [&](Setting& s) {
                       Rows qs(s.act, q, wide), ks(s.act, k, narrow), vs(s.act, v, narrow), out(s.act, T, wide);
                       std::vector<float> lse(T * c.n_heads, NAN), dq(T * wide, NAN), dk(T * narrow, NAN), dv(T * narrow, NAN);
                       const TrainingOps::AttentionShape shape{{c.starts}, c.n_heads, c.n_kv, c.D, scale, c.window};
                       s.ops->attention_forward(out.tensor(), view(lse, c.n_heads), qs.tensor(), ks.tensor(), vs.tensor(), shape);
                       s.ops->attention_backward(view(dq, wide), view(dk, narrow), view(dv, narrow), view(dout, wide), out.tensor(),
                                                 view(lse, c.n_heads), qs.tensor(), ks.tensor(), vs.tensor(), shape);
                       return std::vector{out.read(), dq, dk, dv};
                     },
                     [&](Setting& s, const auto& got) {
                       const double tolerance = s.rounded_tolerance(kRoundedTwice);
                       check(worst(got[0], want) < tolerance,
                             s.name + " " + what + " forward differs by " + std::to_string(worst(got[0], want)));
                       by_q.compare(s.name + " " + what + " dq", got[1], tolerance);
                       by_k.compare(s.name + " " + what + " dk", got[2], tolerance);
                       by_v.compare(s.name + " " + what + " dv", got[3], tolerance);
                     });
  }
}

// ---- embedding rows, optimiser ----

void test_embedding_rows(std::vector<Setting>& settings) {
  const int64_t T = 257, H = 64;
  std::vector<float> dx = normal(T * H);
  std::vector<int32_t> ids(T), token_ids = {3, 5, 999};
  for (int64_t t = 0; t < T; t++) ids[t] = int32_t(t * 7 % 11);
  Values want(3 * H);
  for (int64_t t = 0; t < T; t++)
    for (int i = 0; i < 3; i++)
      for (int64_t h = 0; h < H && ids[t] == token_ids[i]; h++) want[i * H + h] += 11.3125 * dx[t * H + h];
  for (Setting& s : settings) {
    std::vector<float> drows(3 * H);
    s.ops->embed_rows_backward(view(drows, H), view(dx, H), ids, token_ids, 11.3125f);
    check(worst(drows, want) < kSum, s.name + " embed_rows_backward");
    std::vector<float> demb(11 * H);
    s.ops->embed_backward(view(demb, H), view(dx, H), ids, 11.3125f);
    check(std::memcmp(&demb[3 * H], &drows[0], H * 4) == 0 && std::memcmp(&demb[5 * H], &drows[H], H * 4) == 0, s.name + " embed_backward");
  }
}

void test_optimiser(std::vector<Setting>& settings) {
  for (int64_t n : {1, 33, 70001}) {
    const std::vector<float> start = normal(n, 0.1f), gradient = normal(n, 0.1f), gradient2 = normal(n, 0.1f);
    Values p = doubles(start), m(n), v(n);
    for (int step = 1; step <= 2; step++)
      for (int64_t i = 0; i < n; i++) {
        const double g = (step == 1 ? gradient : gradient2)[i] * 0.5;
        p[i] *= 1 - 1e-3 * 0.01;
        m[i] = 0.9 * m[i] + 0.1 * g;
        v[i] = 0.999 * v[i] + 0.001 * g * g;
        p[i] -= 1e-3 * (m[i] / (1 - std::pow(0.9, step))) / (std::sqrt(v[i] / (1 - std::pow(0.999, step))) + 1e-8);
      }
    double squares = 0;
    for (float g : gradient) squares += double(g) * g;
    for (Setting& s : settings) {
      std::vector<float> parameter = start, avg(n), sq(n);
      for (int step = 1; step <= 2; step++) {
        AdamW options{.lr = 1e-3, .weight_decay = 0.01};
        options.step = step;
        options.gradient_scale = 0.5;
        s.ops->adamw(parameter.data(), (step == 1 ? gradient : gradient2).data(), avg.data(), sq.data(), n, options);
      }
      std::vector<float> moved(n);
      Values want_moved(n);
      for (int64_t i = 0; i < n; i++) moved[i] = parameter[i] - start[i], want_moved[i] = p[i] - start[i];
      check(worst(moved, want_moved) < 2e-4, s.name + " adamw moves as torch's, off by " + std::to_string(worst(moved, want_moved)));
      check(worst(avg, m) < 1e-6 && worst(sq, v) < 1e-6, s.name + " adamw's moments");
      check(std::fabs(s.ops->sum_squares(gradient.data(), n) / squares - 1) < 1e-12, s.name + " sum_squares");
    }
  }
}

}  // namespace

int main() {
  std::vector<Setting> settings = every_setting();
  test_linear(settings);
  test_norms(settings);
  test_rope(settings);
  test_geglu(settings);
  test_lora(settings);
  test_dropout(settings);
  test_dora(settings);
  test_attention(settings);
  test_embedding_rows(settings);
  test_optimiser(settings);
  return finish();
}
