// What serving on a GPU decides without one: who gets how much memory, which errors end a process, where a step's time went.
#include <array>
#include <cmath>
#include <thread>

#include "../core/backend.h"
#include "../core/batch.h"
#include "../core/memory_plan.h"
#include "../core/step_clock.h"
#include "../cuda/sticky.h"
#include "check.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

constexpr uint64_t kMiB = 1ull << 20, kGiB = 1ull << 30;

KvNeeds needs_of(const Gemma3Config& c, int n_seqs, int max_len = 0) {
  int n_global = 0;
  for (uint8_t global : c.is_global) n_global += global;
  return {uint64_t(2) * kBlockTokens * uint64_t(c.kv_dim()) * 2, n_global, c.n_layers - n_global, c.sliding_window,
          max_len > 0 ? std::min(max_len, c.max_position) : c.max_position, max_len > 0, n_seqs, 512};
}

uint64_t bytes_of(const KvNeeds& n, const KvPlan& p) {
  return n.bytes_per_layer * (uint64_t(n.n_global) * uint64_t(p.global_blocks) + uint64_t(n.n_sliding) * uint64_t(p.sliding_blocks));
}

void test_kv_plan(const Gemma3Config& c) {
  for (uint64_t budget : {kGiB, 8 * kGiB, 60 * kGiB}) {
    const KvNeeds needs = needs_of(c, 128);
    const KvPlan plan = plan_kv(needs, budget);
    check(bytes_of(needs, plan) <= budget, c.name + ": a KV cache stays within its budget");
    check(plan.sliding_blocks >= (c.sliding_window + 512) / kBlockTokens, c.name + ": a window and a step fit");
    check(plan.reach == plan.global_blocks * kBlockTokens, c.name + ": the reach is what the global blocks hold");
  }
  const KvNeeds few = needs_of(c, 2, 4096);
  const KvPlan most = plan_kv(few, 1000 * kGiB);
  check(most.global_blocks == 2 * 4096 / kBlockTokens + 1, c.name + ": no more blocks than the sequences can use");
  check(bytes_of(few, most) < 4 * kGiB, c.name + ": a large budget is not spent for its own sake");
  const KvNeeds many = needs_of(c, 16);
  const KvPlan wide = plan_kv(many, bytes_of(many, plan_kv(many, 1000 * kGiB)) / 2);
  const int window = (c.sliding_window + 512) / kBlockTokens;
  check(wide.sliding_blocks <= 2 * 16 * window + 2 && wide.global_blocks > 2 * wide.sliding_blocks,
        c.name + ": what sliding layers cannot use goes to the others");
  const uint64_t least = least_kv_bytes(needs_of(c, 8, 2048));
  check(plan_kv(needs_of(c, 8, 2048), least).reach >= 2048, c.name + ": the least budget is enough");
  check_error(c.name + ": too small a budget is refused with figures", "OUT_OF_MEMORY", "2048 need ",
              [&] { plan_kv(needs_of(c, 8, 2048), least / 4); });
}

/// The figures that a load of this shape really allocates stand in cuda/: NF4 codes and fp32 scales, bf16 rows.
void test_estimates() {
  const Gemma3Config c = config_by_name("gemma-3-1b");
  const auto total = [](const std::vector<MemoryNeed>& needs) {
    uint64_t bytes = 0;
    for (const MemoryNeed& need : needs) bytes += need.bytes;
    return bytes;
  };
  const auto nf4 = weight_needs(c, WeightFormat::kNF4, false), int8 = weight_needs(c, WeightFormat::kNF4, true);
  const auto bf16 = weight_needs(c, WeightFormat::kBF16, false);
  check(nf4[0].bytes == dequantised_bytes(c) / 4 + dequantised_bytes(c) / 32, "NF4 takes 4.5 bits a weight, absmax as fp32 included");
  check(bf16[0].bytes == dequantised_bytes(c), "bf16 takes 16");
  check(nf4[1].bytes == uint64_t(262144) * 1152 * 2 && nf4[2].bytes == 0, "a tied bf16 head is the embedding");
  check(total(int8) - total(nf4) == uint64_t(262144) * (1152 + 8), "an int8 head stands beside it");
  // 26 layers, r=16: 13.0 million parameters, A twice, bf16.
  check(adapter_bytes(c, 1, 16) > 2 * 13'000'000 && adapter_bytes(c, 1, 16) < 4 * 13'000'000, "an adapter takes its parameters, A twice");
  check(adapter_bytes(c, 8, 10) == 8 * adapter_bytes(c, 1, 16), "ranks are padded to 16");
}

void test_memory_plan() {
  const DeviceMemory h100{80 * kGiB, 79 * kGiB, 0};
  const std::vector<MemoryNeed> needs = {{"adapters", kGiB}, {"reserve", kGiB}};
  const MemoryPlan plan = plan_memory(h100, 0.5, needs, kGiB, 4 * kGiB);
  check(plan.kv_bytes == 34 * kGiB && plan.dequantised_bytes == 4 * kGiB, "the KV cache gets what the share leaves");
  check(plan_memory({80 * kGiB, 79 * kGiB, 10 * kGiB}, 0.5, needs, kGiB, 0).kv_bytes == 28 * kGiB, "what this process holds counts");
  check(plan_memory({80 * kGiB, 20 * kGiB, 10 * kGiB}, 0.9, needs, kGiB, 0).kv_bytes == 18 * kGiB, "what others hold cannot be had");
  const MemoryPlan tight = plan_memory({24 * kGiB, 23 * kGiB, 8 * kGiB}, 0.9, needs, kGiB, 20 * kGiB);
  check(tight.dequantised_bytes == 0 && tight.kv_bytes > 11 * kGiB, "weights are not kept twice where that would take most of the rest");
  for (double share : {0.1, 0.3, 0.9, 1.0})
    for (uint64_t gib : {8, 16, 24, 80}) {
      const DeviceMemory memory{gib * kGiB, gib * kGiB - 500 * kMiB, kGiB / 2};
      try {
        const MemoryPlan p = plan_memory(memory, share, needs, kGiB, 2 * kGiB);
        const double used = double(memory.ours + 2 * kGiB + p.kv_bytes + p.dequantised_bytes);
        check(used <= share * double(memory.total) + 1 && p.kv_bytes >= kGiB, "a share is not exceeded");
      } catch (const Error& e) {
        check(share * double(memory.total) < 3.6 * double(kGiB), std::string("only what does not fit is refused: ") + e.what());
      }
    }
  const auto refused = [&] { plan_memory({8 * kGiB, 3 * kGiB, 0}, 0.9, {{"weights", 2 * kGiB}, {"head", 700 * kMiB}}, kGiB, 0); };
  for (const char* part : {"GPU memory: 3772 MiB needed, 3072 MiB available (0.9 of 8192 MiB, 3072 MiB free",
                           "weights 2048 MiB, head 700 MiB, KV cache at least 1024 MiB", "--gpu-memory-utilization"})
    check_error("a model that does not fit is refused by purpose", "OUT_OF_MEMORY", part, refused);
}

/// Every published shape on the cards that people have, with the server's defaults.
void test_shapes_on_cards() {
  const auto fits = [](const char* name, uint64_t gib, int n_loras, int rank) {
    const Gemma3Config c = config_by_name(name);
    const DeviceMemory memory{gib * kGiB, gib * kGiB - 600 * kMiB, 0};
    std::vector<MemoryNeed> needs = weight_needs(c, WeightFormat::kNF4, false);
    needs.push_back({"adapters", adapter_bytes(c, n_loras, rank)});
    needs.push_back(reserve_need(c, memory, 512, rank));
    try {
      const KvNeeds kv = needs_of(c, 128);
      return plan_kv(kv, plan_memory(memory, 0.9, needs, least_kv_bytes(kv), dequantised_bytes(c)).kv_bytes).reach;
    } catch (const Error&) {
      return 0;
    }
  };
  check(fits("gemma-3-270m", 8, 8, 64) >= 32768, "270m has its whole context on 8 GiB");
  check(fits("gemma-3-1b", 8, 8, 64) >= 32768, "1b too");
  check(fits("gemma-3-4b", 16, 8, 64) >= 8192, "4b has a long context on 16 GiB");
  check(fits("gemma-3-12b", 24, 8, 64) >= 4096, "12b runs on 24 GiB");
  check(fits("gemma-3-27b", 24, 1, 16) >= 1024, "27b runs on 24 GiB with one small adapter");
  check(fits("gemma-3-27b", 80, 8, 64) >= 32768, "27b has a long context on 80 GiB");
  check(fits("gemma-3-27b", 16, 1, 16) == 0, "27b does not fit 16 GiB");
}

void test_errors_that_end_a_process() {
  using namespace lorikeet::cuda;
  const auto code = [](int error) { return std::string(error_code(error)); };
  for (int error : {214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911, 999})
    check(code(error) == "DEVICE_LOST", "error " + std::to_string(error) + " ends the process");
  check(code(2) == "OUT_OF_MEMORY", "out of memory does not");
  // Invalid value, initialisation, device, no GPU, launch configuration, resources, not ready, peer access, capture, driver.
  for (int error : {1, 3, 35, 98, 100, 101, 209, 400, 600, 701, 704, 801, 802, 900, 901, 906})
    check(code(error) == "CUDA_ERROR", "error " + std::to_string(error) + " fails a call and no more");
}

void test_clock() {
  HostClock clock;
  clock.enter(StepPart::kLayers);
  clock.end();
  check(clock.times()[0].steps + clock.times()[1].steps + clock.times()[2].steps == 0, "marks outside of a step count nothing");
  const auto sleep = [] { std::this_thread::sleep_for(std::chrono::milliseconds(3)); };
  clock.begin(StepPhase::kPrefill);
  clock.begin(StepPhase::kDecode);  // the other was given up
  clock.enter(StepPart::kLayers);
  sleep();
  clock.enter(StepPart::kHead);
  clock.enter(StepPart::kSample);
  sleep();
  clock.end();
  const StepTimes times = clock.times();
  const auto& s = times[size_t(StepPhase::kDecode)].seconds;
  check(times[0].steps == 0 && times[size_t(StepPhase::kDecode)].steps == 1, "a step counts once, in its phase");
  check(s[1] >= 0.003 && s[3] >= 0.003 && s[2] < s[1] && s[0] < s[1], "time belongs to the part it was spent in");
  check_error("the CPU has no ranges to show", "UNSUPPORTED", "--nvtx needs --device cuda", [] { make_cpu_backend({})->show_ranges(); });
}

}  // namespace

int main() {
  for (const char* name : {"gemma-3-270m", "gemma-3-1b", "gemma-3-4b", "gemma-3-12b", "gemma-3-27b"}) test_kv_plan(config_by_name(name));
  test_estimates();
  test_memory_plan();
  test_shapes_on_cards();
  test_errors_that_end_a_process();
  test_clock();
  return finish();
}
