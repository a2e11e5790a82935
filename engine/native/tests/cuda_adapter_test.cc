// Adapters on their way to a GPU: the layout byte for byte, memory that is used again, images kept on the host; then, where there is a GPU,
// what lies on it, and that swapping adapters beside running steps changes no token.
// Usage: cuda_adapter_test [MODEL]   (default: random:gemma-3-270m). Says so and ends well where there is no GPU.
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>

#include "../core/host_adapters.h"
#include "check.h"
#include "random_adapter.h"
#include "step_plan.h"
#if defined(LORIKEET_CUDA_BUILT)
#include "../cuda/adapter_loader.h"
#include "../cuda/weights.h"
#endif

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

/// An image that is nothing but its size.
std::shared_ptr<const HostAdapter> host_image(uint64_t bytes) {
  auto image = std::make_shared<AdapterImage>();
  image->bytes = bytes;
  return std::make_shared<const HostAdapter>(HostAdapter{{}, image});
}

std::string adapter_folder(const Scratch& scratch, const std::string& name) {
  const std::string dir = scratch / name;
  std::filesystem::create_directory(dir);
  write_text(dir + "/adapter_config.json", "{}");
  write_text(dir + "/adapter_model.safetensors", name);
  return dir;
}

void test_host_adapters() {
  const Scratch scratch;
  const std::string a = adapter_folder(scratch, "a"), b = adapter_folder(scratch, "b"), c = adapter_folder(scratch, "c");
  HostAdapters kept(100);
  const auto image = host_image(40);
  kept.add(a, adapter_stamp(a), image);
  kept.add(b, adapter_stamp(b), host_image(40));
  check(kept.find(a) == image && kept.bytes() == 80, "an image is found by its folder");
  kept.add(c, adapter_stamp(c), host_image(40));
  check(kept.find(a) && !kept.find(b) && kept.find(c) && kept.bytes() == 80, "the least recently used image leaves where the budget ends");
  kept.add(b, adapter_stamp(b), host_image(101));
  check(!kept.find(b) && kept.find(a), "an image larger than the budget drives out none");
  kept.add(a, adapter_stamp(a), host_image(60));
  check(kept.bytes() == 100 && kept.find(a) != image && kept.find(c), "a folder has one image");
  write_text(a + "/adapter_model.safetensors", "others");
  check(kept.has(a) && !kept.find(a) && !kept.has(a) && kept.bytes() == 40, "an image of files that were changed is not found");
  std::filesystem::remove_all(c);
  check(!kept.find(c) && kept.bytes() == 0, "an image of files that are gone is not found");
  HostAdapters none(0);
  none.add(b, adapter_stamp(b), host_image(1));
  check(!none.find(b), "a budget of nothing keeps nothing");
}

#if defined(LORIKEET_CUDA_BUILT)

std::mt19937 generator(11);

/// A tensor of random values and what keeps them.
HostTensor random_tensor(int64_t rows, int64_t cols, FileDtype dtype) {
  const int64_t n = rows * cols;
  auto bytes = std::make_shared<std::vector<uint8_t>>(size_t(n * dtype_bytes(dtype)));
  for (int64_t i = 0; i < n; i++) {
    const float value = float(int(generator() >> 8) - (1 << 23)) / (1 << 23);
    const uint16_t half = dtype == FileDtype::kBF16 ? to_bf16(value) : uint16_t(generator() & 0xbbff);  // F16: finite
    if (dtype == FileDtype::kF32)
      std::memcpy(bytes->data() + i * 4, &value, 4);
    else
      std::memcpy(bytes->data() + i * 2, &half, 2);
  }
  return {dtype, {rows, cols}, bytes->data(), bytes};
}

// The parts of a pair as the kernels' comments have them, element by element.

std::vector<bf16> rows_of(const HostTensor& tensor) {
  std::vector<bf16> out;
  for (float v : to_float(tensor)) out.push_back(to_bf16(v));
  return out;
}

std::vector<bf16> tiles_of(const HostTensor& a) {
  const std::vector<float> values = to_float(a);
  const int64_t rank = a.shape[0], K = a.shape[1], k_tiles = K / 64;
  std::vector<bf16> out;
  for (int64_t tile = 0; tile < (rank + 15) / 16 * k_tiles; tile++)
    for (int step = 0; step < 4; step++)
      for (int lane = 0; lane < 32; lane++)
        for (int e = 0; e < 8; e++) {
          const int64_t row = tile / k_tiles * 16 + lane / 4 + e / 2 % 2 * 8;
          const int64_t col = tile % k_tiles * 64 + step * 16 + lane % 4 * 2 + e / 4 * 8 + e % 2;
          out.push_back(row < rank ? to_bf16(values[size_t(row * K + col)]) : bf16(0));
        }
  return out;
}

std::vector<bf16> padded_of(const HostTensor& b) {
  const std::vector<float> values = to_float(b);
  const int64_t rank = b.shape[1], padded = (rank + 15) / 16 * 16;
  std::vector<bf16> out(size_t(b.shape[0] * padded));
  for (int64_t n = 0; n < b.shape[0]; n++)
    for (int64_t r = 0; r < rank; r++) out[size_t(n * padded + r)] = to_bf16(values[size_t(n * rank + r)]);
  return out;
}

std::vector<float> transposed_of(const HostTensor& tensor) {
  const std::vector<float> values = to_float(tensor);
  const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
  std::vector<float> out;
  for (int64_t c = 0; c < cols; c++)
    for (int64_t r = 0; r < rows; r++) out.push_back(values[size_t(r * cols + c)]);
  return out;
}

template <class T>
bool same(const char* data, const std::vector<T>& want) {
  return std::memcmp(data, want.data(), want.size() * sizeof(T)) == 0;
}

void test_pairs() {
  for (const FileDtype dtype : {FileDtype::kF32, FileDtype::kBF16, FileDtype::kF16})
    for (const int64_t rank : {1, 8, 16, 17, 31, 64})
      for (const int64_t n_in : {33, 64, 640}) {
        const int64_t n_out = 257;
        const HostTensor a = random_tensor(rank, n_in, dtype), b = random_tensor(n_out, rank, dtype);
        const std::vector<float> scale(size_t(n_out), 0.5f);
        size_t bytes = 512;
        const cuda::PairLayout pair = cuda::plan_pair(a, b, 2, true, bytes);
        std::vector<char> image(bytes, 1);
        cuda::write_pair(pair, a, b, scale, image.data());
        const bool tiles = n_in % 64 ? pair.a_tiles == cuda::kAbsent : same(&image[pair.a_tiles], tiles_of(a));
        check(pair.a >= 512 && same(&image[pair.a], rows_of(a)) && tiles && same(&image[pair.b], padded_of(b)) &&
                  same(&image[pair.column_scale], scale),
              std::string("a pair of rank ") + std::to_string(rank) + " over " + std::to_string(n_in) + " inputs, " + dtype_name(dtype));
        const cuda::PairLayout embedding = cuda::plan_embedding_pair(a, b, 2, bytes = 0);
        image.assign(bytes, 1);
        cuda::write_embedding_pair(embedding, a, b, image.data());
        check(same(&image[embedding.a], transposed_of(a)) && same(&image[embedding.b], transposed_of(b)), "a pair of an embedding");
      }
  const HostTensor a = random_tensor(513, 64, FileDtype::kF32), b = random_tensor(64, 513, FileDtype::kF32);
  size_t bytes = 0;
  check_error("a rank beyond the kernels'", "ADAPTER_RANK_TOO_LARGE", "513", [&] { cuda::plan_pair(a, b, 1, false, bytes); });
}

int n_allocated = 0, n_freed = 0;

Buffer counted(size_t bytes) {
  n_allocated++;
  return Buffer(std::malloc(bytes), bytes, [](void* p, size_t) { n_freed++, std::free(p); });
}

void test_block_pool() {
  constexpr size_t kUnit = 2 << 20;
  {
    cuda::BlockPool pool(counted);
    Buffer small = pool.take(kUnit), large = pool.take(8 * kUnit);
    const void *at_small = small.data(), *at_large = large.data();
    pool.give_back(std::move(large));
    pool.give_back(std::move(small));
    check(pool.idle_bytes() == 9 * kUnit, "what is given back is kept");
    small = pool.take(kUnit - 1);
    check(small.data() == at_small && n_allocated == 2, "the smallest block that suffices is handed out again");
    large = pool.take(2 * kUnit);
    check(large.data() == at_large && n_allocated == 2, "a larger one rather than a new one");
    pool.give_back(std::move(small));
    large = pool.take(9 * kUnit);
    check(n_allocated == 3 && n_freed == 2, "idle blocks that do not suffice are freed before a new one is made");
    check(pool.take(0).bytes() > 0, "nothing has a place too");
  }
  check(n_freed == n_allocated, "the pool frees what it holds");
}

// From here on: a GPU.

template <class T>
bool on_device(Backend& gpu, const void* device, const std::vector<T>& want) {
  std::vector<T> got(want.size());
  gpu.download(got.data(), device, got.size() * sizeof(T));
  return got == want;
}

void test_device_bytes(Model& gpu, const std::string& dir) {
  const AdapterFile file = gpu.read_adapter_file(dir);
  gpu.load_adapter(0, *gpu.prepare_adapter(dir));
  const DeviceAdapter& adapter = *gpu.adapter(0);
  const auto& index = static_cast<const cuda::AdapterIndexCuda&>(*adapter.index);
  std::vector<cuda::DevicePair> pairs(index.pairs.bytes() / sizeof(cuda::DevicePair));
  gpu.backend().download(pairs.data(), index.pairs.data(), index.pairs.bytes());
  bool equal = pairs.size() == file.layers.size() * kModules && index.fused, made_alone = true;
  for (size_t i = 0; equal && i < pairs.size(); i++) {
    const LoraPair& from = *file.layers[i / kModules][i % kModules];
    const auto& w = static_cast<const cuda::LoraCuda&>(*adapter.layers[i / kModules][i % kModules]);
    equal = on_device(gpu.backend(), w.a, rows_of(from.a)) && on_device(gpu.backend(), pairs[i].a, tiles_of(from.a)) &&
            on_device(gpu.backend(), pairs[i].b, padded_of(from.b)) && pairs[i].scale == from.scale && pairs[i].column_scale == nullptr;
    if (i % 25) continue;
    const auto alone = gpu.backend().make_lora(from.a, from.b, from.scale, {});
    const auto& own = static_cast<const cuda::LoraCuda&>(*alone);
    made_alone &= on_device(gpu.backend(), own.a_tiles, tiles_of(from.a)) && on_device(gpu.backend(), own.b, padded_of(from.b));
  }
  check(equal, "an adapter's bytes on the device");
  check(made_alone, "make_lora's bytes on the device");
  gpu.unload_adapter(0);
}

constexpr int kTurns = 12, kTokens = 10, kPrompt = 40, kLong = 200;

/// Three adapters take turns, each with a prompt and decode steps, beside a sequence of the base that runs on. A turn ends with a step that
/// nobody waits for, after which its slot is freed at once; what it computed is read later. swaps: two slots, each filled by another thread
/// while the other one's adapter runs; else every adapter keeps a slot of its own.
std::vector<int32_t> take_turns(Model& gpu, const std::vector<std::string>& dirs, bool swaps) {
  const int vocab = gpu.info().vocab_size, per = (kTurns * (kTokens + 2) + kPrompt + kLong) / kBlockTokens + 2;
  const int n_slots = swaps ? 2 : 3;
  std::vector<std::thread> loading(static_cast<size_t>(n_slots));
  const auto load = [&](int turn) {
    loading[size_t(turn % n_slots)] = std::thread([&gpu, dir = dirs[size_t(turn % 3)], slot = turn % n_slots] {
      try {
        gpu.load_adapter(slot, *gpu.prepare_adapter(dir));
      } catch (const Error& e) {
        check(false, std::string("loading beside steps: ") + e.what());
      }
    });
  };
  for (int slot = 0; slot < n_slots; slot++) load(slot);
  std::vector<int32_t> ids;
  int base_position = 0;
  const auto add_base = [&](StepPlanner& planner) {
    if (base_position == 0)
      planner.start(0, -1), planner.add(0, some_prompt(kPrompt, vocab, 0), 0), base_position = kPrompt;
    else
      planner.add(0, {-1}, base_position++);
  };
  const auto run = [&](const StepPlan& plan) {
    gpu.check(plan);
    const SampleResult result = gpu.step(plan);
    ids.insert(ids.end(), result.token_ids.begin(), result.token_ids.end());
  };
  for (int turn = 0; turn < kTurns; turn++) {
    const int slot = turn % n_slots;
    if (loading[size_t(slot)].joinable()) loading[size_t(slot)].join();
    for (int step = 0; step < kTokens; step++) {
      StepPlanner planner(per);
      add_base(planner);
      if (step == 0)
        planner.start(1, slot), planner.add(1, some_prompt(kPrompt, vocab, 1), 0);
      else
        planner.add(1, {-1}, kPrompt + step - 1);
      run(planner.plan());
    }
    StepPlanner unread(per);
    unread.start(2, slot);
    unread.add(2, some_prompt(kLong, vocab, 2), 0);
    StepPlan plan = unread.plan();
    plan.out_tokens.clear(), plan.out_targets.clear(), plan.out_logprobs.clear();
    run(plan);
    if (swaps) gpu.unload_adapter(slot), load(turn + 2);
    StepPlanner reads(per);
    add_base(reads);
    reads.start(2, -1);
    reads.add(2, {5}, kLong);
    run(reads.plan());
  }
  for (std::thread& thread : loading)
    if (thread.joinable()) thread.join();
  for (int slot = 0; slot < n_slots; slot++) gpu.unload_adapter(slot);
  return ids;
}

/// Two slots first: then there is no third piece of device memory, and each load goes at once to where steps may still read.
void test_swaps(Model& gpu, const std::vector<std::string>& dirs) {
  const std::vector<int32_t> swapped = take_turns(gpu, dirs, true);
  const size_t allocated = gpu.backend().allocated_bytes();
  bool equal = true;
  for (int round = 0; round < 4; round++) equal &= take_turns(gpu, dirs, true) == swapped;
  check(equal, "the same swaps give the same tokens");
  check(gpu.backend().allocated_bytes() == allocated, "swapping allocates nothing once it has what it needs");
  check(take_turns(gpu, dirs, false) == swapped, "adapters swapped through two slots beside running steps answer as in slots of their own");
  const auto said = [&](int turn) {  // by the adapter: the base's token comes first in each step
    std::vector<int32_t> ids;
    for (int step = 0; step < kTokens; step++) ids.push_back(swapped[size_t(turn * (kTokens + 1) + step) * 2 + 1]);
    return ids;
  };
  check(said(0) != said(1) && said(1) != said(2) && said(0) == said(3), "each adapter says its own");
}

void test_on_gpu(const std::string& path) {
  ModelOptions options{.path = path, .device = "cuda", .head = "bf16", .max_batch_tokens = 512, .max_num_seqs = 8, .max_loras = 3};
  const auto gpu = Model::load(options, {});
  const Scratch scratch;
  std::vector<std::string> dirs;
  for (int i = 0; i < 3; i++) {
    dirs.push_back(scratch / std::to_string(i));
    std::filesystem::create_directory(dirs.back());
    write_random_adapter(dirs.back(), gpu->weights().config, i == 2 ? 8 : 16, i, 0.1f);
  }
  test_device_bytes(*gpu, dirs[0]);
  test_device_bytes(*gpu, dirs[2]);
  test_swaps(*gpu, dirs);
  const auto image = gpu->prepare_adapter(dirs[0]);
  check(image->is_image() && gpu->prepare_adapter(dirs[0]) == image, "an adapter that was evicted is found in host memory");
  gpu->load_adapter(0, *image);
  check_error("a slot that is taken", "ADAPTER_EXISTS", "slot 0", [&] { gpu->load_adapter(0, *image); });
}
#endif

}  // namespace

int main(int argc, char** argv) {
  try {
    test_host_adapters();
#if defined(LORIKEET_CUDA_BUILT)
    test_pairs();
    test_block_pool();
    if (!cuda_devices().empty()) test_on_gpu(argc > 1 ? argv[1] : "random:gemma-3-270m");
#endif
    if (cuda_devices().empty()) std::printf("skipped what needs a GPU: %s\n", cuda_built() ? "no GPU here" : "built without CUDA");
  } catch (const Error& e) {
    check(false, std::string(e.code()) + ": " + e.what());
  }
  (void)argc, (void)argv;
  return finish();
}
