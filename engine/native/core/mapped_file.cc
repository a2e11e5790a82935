#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "error.h"

namespace lorikeet {
namespace {

std::string reason() { return std::strerror(errno); }

struct Descriptor {
  int fd;
  ~Descriptor() { ::close(fd); }
};

// An open descriptor of a regular file and its status.
int open_regular(const std::string& path, struct stat& status) {
  if (path.find('\0') != std::string::npos) throw Error("MODEL_NOT_FOUND", "a path holds a NUL byte");
  // O_NONBLOCK: opening a pipe must not wait for a writer; it is refused below.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const bool absent = errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG || errno == ELOOP;
    throw Error(absent ? "MODEL_NOT_FOUND" : "FILE_INVALID", path + ": " + reason());
  }
  if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(fd);
    throw Error("MODEL_NOT_FOUND", path + ": not a regular file");
  }
  return fd;
}

}  // namespace

std::shared_ptr<MappedFile> MappedFile::open(const std::string& path) {
  struct stat status {};
  const Descriptor file{open_regular(path, status)};
  std::shared_ptr<MappedFile> mapped(new MappedFile);
  mapped->path_ = path;
  if (status.st_size > 0) {
    const auto size = static_cast<uint64_t>(status.st_size);
    void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (data == MAP_FAILED) throw Error("FILE_INVALID", path + ": cannot be mapped: " + reason());
    mapped->data_ = static_cast<const uint8_t*>(data);
    mapped->size_ = size;
  }
  return mapped;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), size_);
}

bool is_file(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

bool is_directory(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

std::string path_name(const std::string& path) {
  size_t end = path.size();
  while (end > 0 && path[end - 1] == '/') --end;
  const size_t slash = path.rfind('/', end == 0 ? 0 : end - 1);
  return slash == std::string::npos ? path.substr(0, end) : path.substr(slash + 1, end - slash - 1);
}

FileStamp file_stamp(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) throw Error("MODEL_NOT_FOUND", path + ": " + reason());
  return {static_cast<uint64_t>(status.st_size), int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec,
          static_cast<uint64_t>(status.st_ino)};
}

std::shared_ptr<uint8_t> allocate_bytes(uint64_t n) {
  const uint64_t padded = (n + 63) / 64 * 64;
  void* data = padded < n ? nullptr : std::aligned_alloc(64, padded == 0 ? 64 : padded);
  if (data == nullptr) throw Error("OUT_OF_MEMORY", "cannot allocate " + std::to_string(n) + " bytes");
  return std::shared_ptr<uint8_t>(static_cast<uint8_t*>(data), [](uint8_t* p) { std::free(p); });
}

FileReader::FileReader(const std::string& path) : path_(path) {
  struct stat status {};
  fd_ = open_regular(path, status);
  size_ = static_cast<uint64_t>(status.st_size);
}

FileReader::~FileReader() { ::close(fd_); }

void FileReader::read(uint64_t offset, void* out, uint64_t n) const {
  auto* p = static_cast<uint8_t*>(out);
  while (n > 0) {
    const ssize_t done = ::pread(fd_, p, n, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) throw Error("FILE_INVALID", path_ + ": " + (done == 0 ? "became shorter while it was read" : reason()));
    p += done;
    offset += static_cast<uint64_t>(done);
    n -= static_cast<uint64_t>(done);
  }
}

FileBytes read_file(const std::string& path, uint64_t max_bytes) {
  const FileReader file(path);
  if (file.size() > max_bytes) {
    throw Error("FILE_INVALID",
                path + ": has " + std::to_string(file.size()) + " bytes, at most " + std::to_string(max_bytes) + " are read");
  }
  FileBytes bytes{allocate_bytes(file.size()), file.size()};
  file.read(0, bytes.data.get(), bytes.size);
  return bytes;
}

DurableFile::DurableFile(std::string path) : path_(std::move(path)) {
  static std::atomic<unsigned> counter{0};
  temporary_ = path_ + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter++);
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("cannot be created");
}

DurableFile::~DurableFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void DurableFile::fail(const char* action) const {
  const bool full = errno == ENOSPC || errno == EDQUOT;
  throw Error(full ? "DISK_FULL" : "FILE_INVALID", path_ + ": " + action + ": " + reason());
}

void DurableFile::write(const void* data, uint64_t n) {
  const auto* p = static_cast<const uint8_t*>(data);
  while (n > 0) {
    const ssize_t done = ::write(fd_, p, n);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail("cannot be written");
    p += done;
    n -= static_cast<uint64_t>(done);
  }
}

void DurableFile::commit() {
  if (::fsync(fd_) != 0) fail("cannot be made durable");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot be renamed");
  ::close(fd_);
  fd_ = -1;
  sync_directory(std::filesystem::path(path_).parent_path().string());
}

void write_file_durably(const std::string& path, std::string_view bytes) {
  DurableFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
}

void sync_directory(const std::string& path) {
  const int fd = ::open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw Error("FILE_INVALID", path + ": " + reason());
  const Descriptor directory{fd};
  if (::fsync(fd) != 0 && errno != EINVAL) throw Error("FILE_INVALID", path + ": cannot be made durable: " + reason());
}

void make_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) throw Error("FILE_INVALID", path + ": cannot be made: " + error.message());
}

}  // namespace lorikeet
