// Chooses the instruction set at run time. This file alone sees all of them.
#if defined(LORIKEET_X86)
#include <cpuid.h>
#endif

#include <algorithm>
#include <fstream>
#include <set>
#include <thread>

#include "../core/backend.h"

namespace lorikeet {

namespace cpu_scalar { std::unique_ptr<Backend> make_backend(const CpuOptions&); }
#if defined(LORIKEET_X86)
namespace cpu_avx2 { std::unique_ptr<Backend> make_backend(const CpuOptions&); }
namespace cpu_avx512 {
std::unique_ptr<Backend> make_backend(const CpuOptions&);
bool amx_allowed();
}  // namespace cpu_avx512
#endif

#if defined(LORIKEET_X86)
namespace {

/// CPUID leaf 7: AMX-BF16 and AMX-TILE.
bool has_amx() {
#if defined(LORIKEET_EMULATE_AMX)
  return true;
#else
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1);
#endif
}

}  // namespace
#endif

std::vector<std::string> cpu_isas() {
  std::vector<std::string> isas;
#if defined(LORIKEET_X86)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
  if (avx512 && has_amx() && cpu_avx512::amx_allowed()) isas.push_back("amx");
  if (avx512) isas.push_back("avx512");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas.push_back("avx2");
#endif
  isas.push_back("scalar");
  return isas;
}

/// Cores, not hyper-threads: two threads of one core share its multipliers.
int physical_cores() {
  std::set<std::string> cores;
  for (unsigned cpu = 0; cpu < std::thread::hardware_concurrency(); cpu++) {
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    std::string siblings;
    if (file >> siblings) cores.insert(siblings);
  }
  const int usable = int(std::max(1u, std::thread::hardware_concurrency()));
  return cores.empty() ? usable : std::min(usable, int(cores.size()));
}

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
  const std::vector<std::string> usable = cpu_isas();
  CpuOptions chosen = options;
  if (chosen.isa == "auto") chosen.isa = usable[0];
  if (std::find(usable.begin(), usable.end(), chosen.isa) == usable.end())
    throw Error("UNSUPPORTED", "this processor cannot run the instruction set \"" + chosen.isa + "\"");
  if (chosen.n_threads <= 0) chosen.n_threads = physical_cores();
#if defined(LORIKEET_X86)
  if (chosen.isa == "avx512" || chosen.isa == "amx") return cpu_avx512::make_backend(chosen);
  if (chosen.isa == "avx2") return cpu_avx2::make_backend(chosen);
#endif
  return cpu_scalar::make_backend(chosen);
}

}  // namespace lorikeet
