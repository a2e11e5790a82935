// The operations of backend.h on CUDA one by one, but products (cuda_linear_test), attention (cuda_attention_test), scores
// (cuda_head_test) and sampling (cuda_sampler_test): against double precision. Outputs lie in poisoned memory.
// Usage: cuda_ops_test [cpu]   (cpu: the CPU stands in for the device)
#include "../core/config.h"
#include "append_case.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

const std::vector<int64_t> kTokens = {1, 31, 33, 257};

/// A step of one row, for the operations that find ids and positions there.
Batch step_of(std::vector<int32_t> ids, std::vector<int32_t> positions) {
  Batch batch;
  batch.token_ids = std::move(ids);
  batch.positions = std::move(positions);
  batch.rows.resize(1);
  batch.rows[0].end = batch.n_tokens();
  return batch;
}

std::vector<int32_t> random_ids(int64_t n, int64_t below) {
  std::vector<int32_t> ids(size_t(n), 0);
  for (int32_t& id : ids) id = int32_t(generator() % unsigned(below));
  return ids;
}

// --- rows of the vocabulary ---

void test_embed(Backend& device, int64_t H) {
  const int64_t V = 1003;
  const TestMatrix base(WeightFormat::kBF16, V, H), saved(WeightFormat::kBF16, V, H);
  const auto embedding = device.make_embedding(base.matrix), own = device.make_embedding(saved.matrix);
  const std::vector<float> rows = rounded(normal(2 * H));
  const TokenRowsDevice token_rows = [&] {
    const std::vector<bf16> half = halves(rows);
    TokenRowsDevice out{{5, int32_t(V - 1)}, device.allocate(half.size() * 2)};
    device.upload(out.rows.data(), half.data(), half.size() * 2);
    return out;
  }();
  for (const int rank : {1, 8, 16}) {
    const std::vector<float> a = normal(rank * V, 0.1f), b = normal(H * rank, 0.1f);
    const auto lora = device.make_embedding_lora(host_tensor(a, {rank, V}), host_tensor(b, {H, rank}), 0.5f);
    for (int64_t T : kTokens) {
      std::vector<int32_t> ids = random_ids(T, V);
      ids[0] = int32_t(V - 1);
      ids[size_t(T / 2)] = ids[size_t(T - 1)] = 5;
      // Quarters: a matrix of its own, rows of its own and a pair, the base, a pair alone. Of one token: rows and a pair.
      const int q = int(T / 4);
      std::vector<EdgeSegment> edges = {{0, q, own.get(), nullptr, nullptr, nullptr, nullptr},
                                        {q, 2 * q, nullptr, nullptr, &token_rows, lora.get(), nullptr},
                                        {3 * q, int(T), nullptr, nullptr, nullptr, lora.get(), nullptr}};
      if (T == 1) edges = {{0, 1, nullptr, nullptr, &token_rows, lora.get(), nullptr}};
      const float scale = to_f32(to_bf16(std::sqrt(float(H))));
      std::vector<double> want(size_t(T * H));
      for (int64_t t = 0; t < T; t++) {
        const EdgeSegment* edge = nullptr;
        for (const EdgeSegment& e : edges)
          if (t >= e.begin && t < e.end) edge = &e;
        const int32_t id = ids[size_t(t)];
        for (int64_t i = 0; i < H; i++) {
          double v = (edge && edge->embedding ? saved : base).values[size_t(id * H + i)];
          if (edge && edge->token_rows && (id == 5 || id == V - 1)) v = rows[size_t((id == 5 ? 0 : H) + i)];
          for (int r = 0; edge && edge->embed_lora && r < rank; r++) v += 0.5 * double(b[size_t(i * rank + r)]) * a[size_t(r * V + id)];
          want[size_t(t * H + i)] = scale * v;
        }
      }
      const Batch batch = step_of(ids, std::vector<int32_t>(size_t(T), 0));
      device.begin_step(batch);
      DeviceRows x(device, DType::kF32, T, H);
      device.embed(x.tensor(), batch.token_ids, *embedding, scale, edges);
      const std::string name = sized("embed", T, H) + ", rank " + std::to_string(rank);
      expect(name, worst_row(x.get(name), want, H), kSums);
    }
  }
}

void test_gather(Backend& device) {
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const int64_t S : {1, 31, 33, 257, 513, 1200}) {
      const int64_t T = 700, H = 1152;
      const std::vector<float> values = rounded(normal(T * H));
      const std::vector<int32_t> tokens = random_ids(S, T);
      DeviceRows x(device, dtype, values, H), out(device, dtype, S, H);
      device.gather_rows(out.tensor(), x.tensor(), tokens);
      std::vector<double> want;
      for (int32_t t : tokens) want.insert(want.end(), values.begin() + t * H, values.begin() + (t + 1) * H);
      const std::string name = sized(dtype == DType::kF32 ? "gather_rows f32" : "gather_rows bf16", S, H);
      expect(name, worst_row(out.get(name), want, H), 0);
    }
}

// --- norms and GEGLU ---

void test_norms(Backend& device, int64_t H) {
  for (int64_t T : kTokens) {
    std::vector<float> x = normal(T * H, 3);
    const std::vector<float> y = normal(T * H), post = normal(H, 0.3f), next = normal(H, 0.3f);
    for (int64_t i = 0; i < H; i++) x[size_t(i)] *= 1e-4f;  // a row of which eps is a part
    DeviceRows stream(device, DType::kF32, x, H), added(device, DType::kF32, y, H), post_w(device, DType::kF32, post, H),
        next_w(device, DType::kF32, next, H), out(device, DType::kBF16, T, H);
    device.rmsnorm(out.tensor(), stream.tensor(), next_w.f32(), kEps);
    std::string name = sized("rmsnorm", T, H);
    expect(name, worst_row(out.get(name), normed(doubles(x), next), H), kRoundedOnce);
    check(stream.get(name) == x, name + ": the input stays");

    std::vector<double> want = normed(doubles(y), post);
    for (size_t i = 0; i < want.size(); i++) want[i] += x[i];
    out.poison();
    device.residual_rmsnorm(out.tensor(), stream.tensor(), added.tensor(), post_w.f32(), next_w.f32(), kEps);
    name = sized("residual_rmsnorm", T, H);
    expect(name + ", the stream", worst_row(stream.get(name), want, H), kSums);
    expect(name, worst_row(out.get(name), normed(want, next), H), kRoundedOnce);
  }
}

/// f32, and what qkv and gate_up are on this device.
std::vector<DType> projected_dtypes(const Backend& device) {
  if (device.projected_dtype() == DType::kF32) return {DType::kF32};
  return {DType::kF32, device.projected_dtype()};
}

void test_geglu(Backend& device, int64_t I) {
  for (const DType dtype : projected_dtypes(device))
    for (int64_t T : kTokens) {
      std::vector<float> in = rounded(normal(T * 2 * I, 3));
      const float extremes[] = {0, -0.0f, 1e-30f, -12, 12, -90, 90, -1e4f, 1e4f};
      for (size_t i = 0; i < std::size(extremes); i++) in[i] = bf16_round(extremes[i]);
      std::vector<double> want;
      for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < I; i++) {
          const double g = in[size_t(t * 2 * I + i)];
          want.push_back(0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * in[size_t(t * 2 * I + I + i)]);
        }
      DeviceRows gate_up(device, dtype, in, 2 * I), out(device, DType::kBF16, T, I);
      device.geglu(out.tensor(), gate_up.tensor());
      const std::string name = sized(dtype == DType::kF32 ? "geglu of f32" : "geglu of bf16", T, I);
      std::vector<float> got = out.get(name);
      expect(name, worst_row(got, want, I), kRoundedOnce);
      // The first row again without what is large: there the others count.
      for (size_t i = 0; i < 9; i++) got[i] = 0, want[i] = 0;
      expect(name + ", without the extremes", worst_row(got, want, I), kRoundedOnce);
    }
}

// --- rotary positions and the way into the cache ---

void test_rope_table(Backend& device) {
  for (const int64_t D : {64, 128, 256})
    for (const auto& [theta, scaling] : {std::pair{1e4f, 1.0f}, {1e6f, 1.0f}, {1e6f, 8.0f}})
      for (int64_t T : kTokens) {
        std::vector<int32_t> positions = random_ids(T, is_cuda(device) ? 131072 : 512);  // the CPU's angles are fp32, as transformers'
        positions[0] = 0;
        const Batch batch = step_of(random_ids(T, 100), positions);
        device.begin_step(batch);
        DeviceRows table(device, DType::kF32, T, D);
        device.rope_table(table.tensor(), batch.positions, theta, scaling);
        std::vector<double> want(size_t(T * D));
        for (int64_t t = 0; t < T; t++)
          for (int64_t i = 0; i < D / 2; i++) {
            const double angle = positions[size_t(t)] / double(scaling) * std::pow(double(theta), -2.0 * double(i) / double(D));
            want[size_t(t * D + i)] = std::cos(angle);
            want[size_t(t * D + D / 2 + i)] = std::sin(angle);
          }
        const std::string name = sized("rope_table", T, D) + ", theta " + std::to_string(int(theta)) + " / " + std::to_string(int(scaling));
        expect(name, worst_row(table.get(name), want, D), kSums);
      }
}

void test_append(Backend& device) {
  const std::vector<std::vector<std::pair<int, int>>> steps = {
      {{1000, 1}}, {{0, 31}}, {{15, 17}, {31, 1}, {500, 15}}, {{0, 1}, {70, 33}, {63, 64}, {200, 1}, {16, 158}}};
  for (const HeadShape shape : {HeadShape{4, 1, 256}, {8, 4, 256}, {16, 8, 256}, {32, 16, 128}, {4, 2, 64}})
    for (const bool sliding : {false, true})
      for (const DType dtype : projected_dtypes(device))
        for (const auto& rows : steps) {
          int T = 0;
          for (const auto& row : rows) T += row.second;
          AppendCase(shape, sliding, rows)
              .run(device, dtype,
                   std::string("append ") + (sliding ? "sliding " : "global ") + (dtype == DType::kF32 ? "f32 " : "bf16 ") +
                       std::to_string(T) + " tokens, " + std::to_string(shape.n_heads) + "/" + std::to_string(shape.n_kv_heads) +
                       " heads of " + std::to_string(shape.head_dim));
        }
}

/// New memory is zeros, and what goes up comes down.
void test_memory(Backend& device) {
  for (const size_t n : {size_t(1), size_t(1003), size_t(5 << 20)}) {
    const Buffer memory = device.allocate(n);
    std::vector<char> got(n, 1), sent(n);
    device.download(got.data(), memory.data(), n);
    check(std::all_of(got.begin(), got.end(), [](char c) { return c == 0; }), "new memory is zeros");
    for (char& c : sent) c = char(generator());
    device.upload(memory.data(), sent.data(), n);
    device.download(got.data(), memory.data(), n);
    check(got == sent, "what goes up comes down");
  }
}

}  // namespace

int main(int n_args, char** args) {
  try {
    const auto device = device_under_test(n_args, args);
    if (!device) return finish();
    test_memory(*device);
    for (const char* size : {"270m", "1b", "4b", "12b", "27b"}) {
      const Gemma3Config c = config_by_name(std::string("gemma-3-") + size);
      test_norms(*device, c.hidden_size);
      test_geglu(*device, c.intermediate_size);
    }
    for (const int64_t H : {640, 1152, 2560, 3840}) test_embed(*device, H);
    test_gather(*device);
    test_rope_table(*device);
    test_append(*device);
  } catch (const Error& e) {
    check(false, std::string(e.code()) + ": " + e.what());
  }
  return finish();
}
