// The hash that names a model's content, remembered by path, size and time.
#include "error.h"
#include "sha256.h"
#include "weight_source.h"

namespace lorikeet {
namespace {

std::string compute_hash(const WeightSource& source, const LoadOptions& options) {
  uint64_t total = 0, before = 0;
  for (const auto& file : source.files()) total += file->size();
  std::string list;
  for (const auto& file : source.files()) {
    list += content_hash(file->text(), [&](uint64_t done) {
      if (options.progress) options.progress("hashing", before + done, total);
    });
    before += file->size();
  }
  return sha256_hex(list);
}

// What must be unchanged for a remembered hash to hold.
std::string stamps(const WeightSource& source) {
  std::string out;
  for (const auto& file : source.files()) {
    const FileStamp stamp = file_stamp(file->path());
    out +=
        file->path() + '\n' + std::to_string(stamp.bytes) + ' ' + std::to_string(stamp.mtime_ns) + ' ' + std::to_string(stamp.inode) + '\n';
  }
  return out;
}

}  // namespace

std::string source_hash(const WeightSource& source, const LoadOptions& options) {
  if (options.cache_dir.empty()) return compute_hash(source, options);
  const std::string directory = options.cache_dir + "/hashes", memo = directory + "/" + sha256_hex(stamps(source)).substr(0, 32);
  try {
    const std::string known(is_file(memo) ? read_file(memo, 64).text() : "");
    if (known.size() == 64 && known.find_first_not_of("0123456789abcdef") == std::string::npos) return known;
    const std::string hash = compute_hash(source, options);
    make_directories(directory);
    write_file_durably(memo, hash);
    return hash;
  } catch (const Error&) {                 // a cache that cannot be used costs time, not the start
    return compute_hash(source, options);
  }
}

}  // namespace lorikeet
