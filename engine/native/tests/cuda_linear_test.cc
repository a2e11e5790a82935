// Products of every model shape on CUDA, with and without adapters, against the CPU's and, at some outputs of each row, against double
// precision. Outputs lie in poisoned memory. Usage: cuda_linear_test [cpu] (cpu: the CPU stands in for the device)
#include <functional>

#include "../core/config.h"
#include "ops_testing.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

struct LinearShape {
  std::string name;  // "1b gate_up"
  int64_t n_in;
  std::vector<int64_t> parts;  // outputs of the modules
  int64_t n_out() const {
    int64_t n = 0;
    for (int64_t part : parts) n += part;
    return n;
  }
};

std::vector<LinearShape> shapes_of(const std::string& size) {
  const Gemma3Config c = config_by_name("gemma-3-" + size);
  return {{size + " qkv", c.hidden_size, {c.q_dim(), c.kv_dim(), c.kv_dim()}},
          {size + " o", c.q_dim(), {c.hidden_size}},
          {size + " gate_up", c.hidden_size, {c.intermediate_size, c.intermediate_size}},
          {size + " down", c.intermediate_size, {c.hidden_size}}};
}

/// [T, columns] sums of w[column] . x[t] in double.
std::vector<double> products(const TestMatrix& w, const std::vector<float>& x, const std::vector<int64_t>& columns) {
  const int64_t K = w.matrix.cols, T = int64_t(x.size()) / K, width = int64_t(columns.size());
  std::vector<double> out(size_t(T * width));
  parallel_for(T, [&](int64_t t) {
    for (int64_t i = 0; i < width; i++) {
      const float *row = &w.values[size_t(columns[size_t(i)] * K)], *from = &x[size_t(t * K)];
      double sums[4] = {};
      for (int64_t k = 0; k < K; k++) sums[k % 4] += double(row[k]) * from[k];
      out[size_t(t * width + i)] = sums[0] + sums[1] + sums[2] + sums[3];
    }
  });
  return out;
}

class LinearCase {
 public:
  LinearCase(Backend& device, Backend& cpu, LinearShape shape, WeightFormat format = WeightFormat::kNF4)
      : device_(device),
        cpu_(cpu),
        shape_(std::move(shape)),
        format_(format),
        matrix_(format, shape_.n_out(), shape_.n_in),
        on_device_(device.make_linear({&matrix_.matrix, 1})),
        on_cpu_(cpu.make_linear({&matrix_.matrix, 1})) {}

  const LinearShape& shape() const { return shape_; }
  const TestMatrix& matrix() const { return matrix_; }

  /// device_parts, cpu_parts: the same adapters. adapt: what they make of the double-precision products of `columns`.
  using Adapt = std::function<void(std::vector<double>& sums, const std::vector<float>& x, const std::vector<int64_t>& columns)>;
  void run(int64_t T, const std::string& what, std::span<const LoraPart> device_parts = {}, std::span<const LoraPart> cpu_parts = {},
           const Adapt& adapt = {}) {
    const int64_t K = shape_.n_in, N = shape_.n_out();
    const std::vector<float> x = rounded(normal(T * K));
    const std::vector<int64_t> columns = sampled_columns();
    std::vector<double> want = products(matrix_, x, columns);
    if (adapt) adapt(want, x, columns);
    const std::vector<double> of_cpu = doubles(multiply(cpu_, *on_cpu_, DType::kF32, x, T, cpu_parts, what));
    const std::string name = shape_.name + " " + format_name(format_) + ", " + std::to_string(T) + " tokens" + what;
    std::vector<DType> outputs = {DType::kF32};
    if (device_.projected_dtype() != DType::kF32) outputs.push_back(device_.projected_dtype());
    for (DType dtype : outputs) {
      const std::vector<float> got = multiply(device_, *on_device_, dtype, x, T, device_parts, name);
      const double bound = format_ == WeightFormat::kNF4 || adapt ? kNf4 : dtype == DType::kF32 ? kSums : kRoundedOnce;
      const std::string to = dtype == DType::kF32 ? " to f32" : " to bf16";
      expect(name + to + ", against double", worst_row(got, want, N, columns), bound);
      expect(name + to + ", against the CPU", worst_row(got, of_cpu, N), bound);
    }
  }

 private:
  /// Some of each module's outputs.
  std::vector<int64_t> sampled_columns() const {
    std::vector<int64_t> out;
    int64_t begin = 0;
    for (int64_t part : shape_.parts) {
      const std::vector<int64_t> some = some_of(part, begin);
      out.insert(out.end(), some.begin(), some.end());
      begin += part;
    }
    return out;
  }

  std::vector<float> multiply(Backend& backend, const Linear& w, DType dtype, const std::vector<float>& x, int64_t T,
                              std::span<const LoraPart> parts, const std::string& what) const {
    const bool spaced = dtype != DType::kF32;  // both kinds of rows
    DeviceRows in(backend, DType::kBF16, x, shape_.n_in, spaced), out(backend, dtype, T, shape_.n_out(), spaced);
    backend.linear(out.tensor(), in.tensor(), w, parts);
    return out.get(what);
  }

  Backend &device_, &cpu_;
  LinearShape shape_;
  WeightFormat format_;
  TestMatrix matrix_;
  std::unique_ptr<Linear> on_device_, on_cpu_;
};

/// A pair for every module of a matrix, about as large as what it is added to.
struct Adapter {
  int rank;
  float scale = 0.5f;
  struct Pair {
    std::vector<float> a, b, column_scale;  // [r, n_in], [n_out, r], [n_out] or empty
    std::unique_ptr<LoraWeights> on_device, on_cpu;
  };
  std::vector<Pair> pairs;

  Adapter(Backend& device, Backend& cpu, const LinearShape& shape, int rank, bool dora) : rank(rank) {
    for (int64_t n_out : shape.parts) {
      Pair& pair = pairs.emplace_back();
      pair.a = rounded(normal(rank * shape.n_in, 1 / std::sqrt(float(shape.n_in))));
      pair.b = rounded(normal(n_out * rank, 0.05f * std::sqrt(float(shape.n_in) / float(rank)) / scale));
      std::uniform_real_distribution<float> draw(0.5f, 1.5f);
      for (int64_t n = 0; dora && n < n_out; n++) pair.column_scale.push_back(draw(generator));
      const HostTensor a = host_tensor(pair.a, {rank, shape.n_in}), b = host_tensor(pair.b, {n_out, rank});
      pair.on_device = device.make_lora(a, b, scale, pair.column_scale);
      pair.on_cpu = cpu.make_lora(a, b, scale, pair.column_scale);
    }
  }
};

/// Tokens [begin, end) use adapters[adapter]; -1: the base.
struct Run {
  int begin, end, adapter;
};

class AdaptedCase {
 public:
  AdaptedCase(Backend& device, Backend& cpu, const LinearShape& shape) : linear_(device, cpu, shape) {
    for (const auto& [rank, dora] : {std::pair{1, false}, {8, false}, {16, false}, {64, false}, {16, true}, {64, true}})
      adapters_.push_back(std::make_unique<Adapter>(device, cpu, shape, rank, dora));
  }
  int n_adapters() const { return int(adapters_.size()); }

  void run(int T, const std::vector<Run>& runs, const std::string& what) {
    const std::vector<LoraPart> on_device = parts(runs, true), on_cpu = parts(runs, false);
    linear_.run(T, ", " + what, on_device, on_cpu, [&](auto& sums, const auto& x, const auto& columns) { adapt(sums, x, columns, runs); });
  }

 private:
  std::vector<LoraPart> parts(const std::vector<Run>& runs, bool on_device) const {
    std::vector<LoraPart> out;
    int64_t begin = 0;
    for (size_t m = 0; m < linear_.shape().parts.size(); begin += linear_.shape().parts[m++]) {
      LoraPart& part = out.emplace_back();
      part.row_begin = begin;
      for (const Run& run : runs) {
        const LoraWeights* weights = nullptr;
        if (run.adapter >= 0) {
          const Adapter::Pair& pair = adapters_[size_t(run.adapter)]->pairs[m];
          weights = on_device ? pair.on_device.get() : pair.on_cpu.get();
        }
        part.segments.push_back({run.begin, run.end, weights});
      }
    }
    return out;
  }

  /// sums [T, columns] = column_scale * (sums + scale * B (A x)), in double.
  void adapt(std::vector<double>& sums, const std::vector<float>& x, const std::vector<int64_t>& columns,
             const std::vector<Run>& runs) const {
    const int64_t K = linear_.shape().n_in;
    for (const Run& run : runs) {
      if (run.adapter < 0) continue;
      const Adapter& adapter = *adapters_[size_t(run.adapter)];
      parallel_for(run.end - run.begin, [&](int64_t i) {
        const int64_t t = run.begin + i;
        int64_t begin = 0;
        for (size_t m = 0; m < adapter.pairs.size(); begin += linear_.shape().parts[m++]) {
          const Adapter::Pair& pair = adapter.pairs[m];
          std::vector<double> h(size_t(adapter.rank));
          for (int64_t r = 0; r < adapter.rank; r++)
            for (int64_t k = 0; k < K; k++) h[size_t(r)] += double(pair.a[size_t(r * K + k)]) * x[size_t(t * K + k)];
          for (size_t c = 0; c < columns.size(); c++) {
            const int64_t n = columns[c] - begin;
            if (n < 0 || n >= linear_.shape().parts[m]) continue;
            double& sum = sums[size_t(t) * columns.size() + c];
            for (int64_t r = 0; r < adapter.rank; r++) sum += adapter.scale * h[size_t(r)] * pair.b[size_t(n * adapter.rank + r)];
            if (!pair.column_scale.empty()) sum *= pair.column_scale[size_t(n)];
          }
        }
      });
    }
  }

  LinearCase linear_;
  std::vector<std::unique_ptr<Adapter>> adapters_;
};

void test_adapters(Backend& device, Backend& cpu, const LinearShape& shape) {
  AdaptedCase c(device, cpu, shape);
  for (int a = 0; a < c.n_adapters(); a++) c.run(1, {{0, 1, a}}, "adapter " + std::to_string(a));
  c.run(31, {{0, 1, 0}, {1, 9, 1}, {9, 17, -1}, {17, 30, 5}, {30, 31, 2}}, "four adapters and the base");
  c.run(33, {{0, 33, 2}}, "one adapter");
  c.run(257, {{0, 1, 1}, {1, 65, 4}, {65, 128, 3}, {128, 255, 5}, {255, 257, -1}}, "runs of 1, 64, 63, 127");
}

/// More runs than one launch takes, short and long.
void test_many_runs(Backend& device, Backend& cpu) {
  AdaptedCase c(device, cpu, shapes_of("270m")[0]);
  for (const auto& [n, length] : {std::pair{257, 1}, {55, 64}}) {
    std::vector<Run> runs;
    for (int i = 0; i < n; i++) runs.push_back({i * length, (i + 1) * length, i % (c.n_adapters() + 1) - 1});
    c.run(n * length, runs, std::to_string(n) + " runs of " + std::to_string(length));
  }
}

void test_formats(Backend& device, Backend& cpu) {
  for (const auto& [n_out, n_in] : {std::pair<int64_t, int64_t>{16, 64}, {48, 192}, {40, 128}})
    for (int64_t T : {1, 7, 8, 9, 31, 33, 257})
      LinearCase(device, cpu, {std::to_string(n_out) + " of " + std::to_string(n_in), n_in, {n_out}}).run(T, "");
  for (const LinearShape& shape : shapes_of("1b")) {
    LinearCase c(device, cpu, shape, WeightFormat::kBF16);
    for (int64_t T : {1, 33, 257}) c.run(T, "");
  }
}

/// q, k and v in formats of their own: one bf16 matrix of the same values.
void test_mixed_parts(Backend& device) {
  const int64_t K = 640, T = 33;
  TestMatrix a(WeightFormat::kNF4, 256, K), b(WeightFormat::kBF16, 64, K);
  const HostMatrix parts[] = {a.matrix, b.matrix};
  const auto w = device.make_linear(parts);
  const std::vector<float> x = rounded(normal(T * K));
  DeviceRows in(device, DType::kBF16, x, K), out(device, DType::kF32, T, 320);
  device.linear(out.tensor(), in.tensor(), *w);
  const std::vector<float> got = out.get("parts of two formats");
  std::vector<int64_t> of_a = some_of(256), of_b = some_of(64), place;
  for (int64_t n : of_b) place.push_back(256 + n);
  expect("nf4 part beside a bf16 one", worst_row(got, products(a, x, of_a), 320, of_a), kSums);
  expect("bf16 part beside an nf4 one", worst_row(got, products(b, x, of_b), 320, place), kSums);
}

void test_dora_norms(Backend& device, Backend& cpu) {
  const int64_t K = 1152, begin = 1024, n_out = 256, rank = 16;
  const TestMatrix m(WeightFormat::kNF4, 1536, K);
  const std::vector<float> a = normal(rank * K, 0.05f), b = normal(n_out * rank, 0.3f);
  const auto norms = [&](Backend& backend) {
    return backend.dora_row_norms(*backend.make_linear({&m.matrix, 1}), begin, host_tensor(a, {rank, K}), host_tensor(b, {n_out, rank}),
                                  0.5f);
  };
  std::vector<double> want(size_t(n_out), 0.0);
  for (int64_t n = 0; n < n_out; n++) {
    for (int64_t k = 0; k < K; k++) {
      double v = m.values[size_t((begin + n) * K + k)];
      for (int64_t r = 0; r < rank; r++) v += 0.5 * double(b[size_t(n * rank + r)]) * a[size_t(r * K + k)];
      want[size_t(n)] += v * v;
    }
    want[size_t(n)] = std::sqrt(want[size_t(n)]);
  }
  const std::vector<float> got = norms(device);
  expect("row norms of DoRA, against double", worst_row(got, want, 1), kSums);
  expect("row norms of DoRA, against the CPU", worst_row(got, doubles(norms(cpu)), 1), kSums);
}

}  // namespace

int main(int n_args, char** args) {
  try {
    const auto device = device_under_test(n_args, args), cpu = make_cpu_backend({});
    if (!device) return finish();
    test_formats(*device, *cpu);
    test_mixed_parts(*device);
    test_dora_norms(*device, *cpu);
    for (const char* size : {"270m", "1b", "4b", "12b"})
      for (const LinearShape& shape : shapes_of(size)) {
        LinearCase c(*device, *cpu, shape);
        for (int64_t T : {1, 8, 31, 33, 64, 257}) c.run(T, "");
      }
    for (const char* size : {"270m", "1b", "4b"})
      for (const LinearShape& shape : shapes_of(size)) test_adapters(*device, *cpu, shape);
    test_many_runs(*device, *cpu);
  } catch (const Error& e) {
    check(false, std::string(e.code()) + ": " + e.what());
  }
  return finish();
}
