#include "adapter_loader.h"

#include "ops.h"
#include "pinned_memory.h"
#include "weights.h"

namespace lorikeet::cuda {
namespace {

struct AdapterImageCuda : AdapterImage {
  AdapterLayout layout;
  Buffer memory;
  std::shared_ptr<BlockPool> pool;

  ~AdapterImageCuda() override { pool->give_back(std::move(memory)); }
  const char* data() const { return static_cast<const char*>(memory.data()); }
};

/// A part of an adapter's memory where an owner is expected.
Buffer part(const char* device, size_t bytes) {
  return Buffer(const_cast<char*>(device), bytes, [](void*, size_t) {});
}

std::unique_ptr<TokenRowsDevice> rows_at(const RowsLayout& rows, const char* device) {
  auto out = std::make_unique<TokenRowsDevice>();
  out->token_ids = rows.token_ids;
  out->rows = part(device + rows.rows, rows.token_ids.size() * size_t(rows.cols) * 2);
  return out;
}

void place_parts(const AdapterLayout& layout, const char* device, DeviceAdapter& out) {
  out.layers.resize(layout.layers.size());
  for (size_t layer = 0; layer < layout.layers.size(); layer++)
    for (int m = 0; m < kModules; m++)
      if (const auto& pair = layout.layers[layer][m]) out.layers[layer][m] = lora_at(*pair, device);
  if (layout.embed_lora) out.embed_lora = lora_at(*layout.embed_lora, device);
  if (layout.head_lora) out.head_lora = lora_at(*layout.head_lora, device);
  if (layout.embed_rows) out.embed_rows = rows_at(*layout.embed_rows, device);
  if (layout.head_rows) out.head_rows = rows_at(*layout.head_rows, device);
}

void copy_pieces(char* to, const char* from, size_t bytes, cudaStream_t stream) {
  for (size_t at = 0; at < bytes; at += kPinnedPiece)
    check(cudaMemcpyAsync(to + at, from + at, std::min(kPinnedPiece, bytes - at), cudaMemcpyHostToDevice, stream), "copy of an adapter");
}

/// DevicePair [layers][modules].
std::vector<DevicePair> pair_table(const DeviceAdapter& adapter, AdapterIndexCuda& index) {
  index.fused = !adapter.embedding && !adapter.head && !adapter.embed_lora;
  std::vector<DevicePair> pairs;
  for (const auto& layer : adapter.layers)
    for (const auto& weights : layer) {
      DevicePair& pair = pairs.emplace_back();
      if (!weights) continue;
      const auto& w = static_cast<const LoraCuda&>(*weights);
      pair = {w.a_tiles, w.b_rows(), w.column_scale, w.scale, w.padded_rank() / 16};
      index.rank_tiles = std::max(index.rank_tiles, pair.rank_tiles);
      index.fused &= pair.a != nullptr && w.rank <= kDecodeRank;
    }
  return pairs;
}

}  // namespace

/// Of adapters on the device. Held by each of them.
struct AdapterLoader::Memory {
  cudaStream_t steps;
  cudaEvent_t released = nullptr;  // on `steps`, after the last adapter that was
  BlockPool arenas{allocate_device};
};

/// Device memory of one adapter.
class AdapterLoader::Arena {
 public:
  Arena(std::shared_ptr<Memory> memory, size_t bytes) : memory_(std::move(memory)), block_(memory_->arenas.take(bytes)) {}
  ~Arena() {
    if (read_by_steps) cudaEventRecord(memory_->released, memory_->steps);
    memory_->arenas.give_back(std::move(block_));
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  char* data() const { return static_cast<char*>(block_.data()); }
  bool read_by_steps = false;

 private:
  std::shared_ptr<Memory> memory_;
  Buffer block_;
};

AdapterLoader::AdapterLoader(int device, cudaStream_t steps)
    : device_(device), pinned_(std::make_shared<BlockPool>(allocate_pinned)), memory_(std::make_shared<Memory>()) {
  memory_->steps = steps;
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  check(cudaEventCreateWithFlags(&arrived_, cudaEventDisableTiming | cudaEventBlockingSync), "cudaEventCreate");
  check(cudaEventCreateWithFlags(&memory_->released, cudaEventDisableTiming), "cudaEventCreate");
}

AdapterLoader::~AdapterLoader() {
  if (stream_) cudaStreamSynchronize(stream_), cudaStreamDestroy(stream_);
  if (arrived_) cudaEventDestroy(arrived_);
  if (memory_->released) cudaEventDestroy(memory_->released);
}

std::shared_ptr<const AdapterImage> AdapterLoader::make_image(const AdapterFile& file, const ColumnScale& column_scale) {
  check(cudaSetDevice(device_), "cudaSetDevice");
  auto image = std::make_shared<AdapterImageCuda>();
  image->layout = plan_adapter(file);
  image->pool = pinned_;
  image->memory = pinned_->take(image->layout.bytes);
  image->bytes = image->memory.bytes();
  write_adapter(file, image->layout, column_scale, static_cast<char*>(image->memory.data()));
  return image;
}

void AdapterLoader::load(const AdapterImage& image, DeviceAdapter& out) {
  const auto& from = static_cast<const AdapterImageCuda&>(image);
  const AdapterLayout& layout = from.layout;
  const size_t table_bytes = layout.layers.size() * kModules * sizeof(DevicePair);
  const std::lock_guard lock(mutex_);
  check(cudaSetDevice(device_), "cudaSetDevice");
  const auto arena = std::make_shared<Arena>(memory_, layout.bytes + table_bytes);
  char* table = arena->data() + layout.bytes;

  auto index = std::make_unique<AdapterIndexCuda>();
  place_parts(layout, arena->data(), out);
  const std::vector<DevicePair> pairs = pair_table(out, *index);
  index->pairs = part(table, table_bytes);
  if (const auto& rows = layout.embed_rows) {
    index->n_row_ids = int(rows->token_ids.size());
    index->row_ids = part(arena->data() + rows->ids, rows->token_ids.size() * 4);
    index->rows = reinterpret_cast<const nv_bf16*>(arena->data() + rows->rows);
  }
  check(cudaStreamWaitEvent(stream_, memory_->released, 0), "copy of an adapter");
  copy_pieces(arena->data(), from.data(), layout.bytes, stream_);
  check(cudaMemcpyAsync(table, pairs.data(), table_bytes, cudaMemcpyHostToDevice, stream_), "copy of an adapter");
  check(cudaEventRecord(arrived_, stream_), "copy of an adapter");
  check(cudaEventSynchronize(arrived_), "copy of an adapter");

  arena->read_by_steps = true;
  index->bytes = layout.bytes + table_bytes;  // what the arena has beyond that serves larger ones later
  index->memory = arena;
  out.index = std::move(index);
  out.bytes += layout.bytes + table_bytes;
}

ImageView view(const AdapterImage& image) {
  const auto& of = static_cast<const AdapterImageCuda&>(image);
  return {of.layout, of.data()};
}

}  // namespace lorikeet::cuda
