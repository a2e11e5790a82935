// Stands in for cuda/ where there is no CUDA compiler.
#include "../core/backend.h"

namespace lorikeet {

bool cuda_built() { return false; }

std::vector<std::string> cuda_devices() { return {}; }

std::unique_ptr<Backend> make_cuda_backend(int) {
  throw Error("CUDA_NOT_BUILT", "this build has no CUDA backend: use --device cpu, or install the CUDA toolkit and run \"npm run setup\" again");
}

}  // namespace lorikeet
