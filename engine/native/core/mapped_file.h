// Files as bytes: mapped read-only for model weights, read into owned memory for adapters (a file cut short while it is mapped
// would end the process by SIGBUS), written durably for everything that we publish.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace lorikeet {

class MappedFile {
 public:
  // Throws MODEL_NOT_FOUND when there is no such regular file, FILE_INVALID when it cannot be read.
  static std::shared_ptr<MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  MappedFile() = default;
  const uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
  std::string path_;
};

// An open regular file that is read piece by piece into the caller's memory. Throws as MappedFile does.
class FileReader {
 public:
  explicit FileReader(const std::string& path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;
  uint64_t size() const { return size_; }
  void read(uint64_t offset, void* out, uint64_t n) const;   // all n bytes, or FILE_INVALID

 private:
  std::string path_;
  uint64_t size_ = 0;
  int fd_ = -1;
};

bool is_file(const std::string& path);
bool is_directory(const std::string& path);
std::string path_name(const std::string& path);   // last component, no trailing slashes

struct FileStamp {
  uint64_t bytes = 0;
  int64_t mtime_ns = 0;
  uint64_t inode = 0;
  bool operator==(const FileStamp&) const = default;
};
FileStamp file_stamp(const std::string& path);    // throws MODEL_NOT_FOUND

// The whole file in owned memory, 64-byte aligned. Throws like MappedFile::open; FILE_INVALID above max_bytes.
struct FileBytes {
  std::shared_ptr<uint8_t> data;
  uint64_t size = 0;
  std::string_view text() const { return {reinterpret_cast<const char*>(data.get()), size}; }
};
FileBytes read_file(const std::string& path, uint64_t max_bytes);

// 64-byte aligned memory, not cleared. Throws OUT_OF_MEMORY.
std::shared_ptr<uint8_t> allocate_bytes(uint64_t n);

// Writes a new file piece by piece; nothing is visible at `path` before commit(): temporary file, fsync, rename, fsync of the
// directory. A writer that is destroyed without commit() leaves nothing behind.
class DurableFile {
 public:
  explicit DurableFile(std::string path);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;
  void write(const void* data, uint64_t n);
  void commit();

 private:
  [[noreturn]] void fail(const char* action) const;
  std::string path_, temporary_;
  int fd_ = -1;
};

void write_file_durably(const std::string& path, std::string_view bytes);
void sync_directory(const std::string& path);
// Makes a directory and its parents. Throws FILE_INVALID with the system's reason.
void make_directories(const std::string& path);

}  // namespace lorikeet
