// The tokenizer inside a GGUF file: SentencePiece-BPE with scores and byte fallback, equal to Gemma 3's tokenizer.json.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace lorikeet {

enum class TokenKind : uint8_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

class GgufTokenizer {
 public:
  // Throws MODEL_NOT_FOUND, FILE_INVALID, UNSUPPORTED (another tokenizer model).
  static std::unique_ptr<GgufTokenizer> open(const std::string& path);
  virtual ~GgufTokenizer() = default;

  // Ids of UTF-8 text, no <bos>. parse_special: control tokens written out in the text become their ids.
  // Bytes that are not UTF-8 become byte tokens. Safe from several threads.
  virtual std::vector<int32_t> encode(std::string_view text, bool parse_special) const = 0;

  // Token i is bytes[offsets[i], offsets[i+1]) as it decodes: U+2581 as a space, <0xNN> as the byte itself.
  struct Table {
    std::vector<uint8_t> bytes;
    std::vector<uint32_t> offsets;         // [vocab_size + 1]
    std::vector<uint8_t> kinds;            // [vocab_size] TokenKind
  };
  virtual Table table() const = 0;

  int32_t vocab_size() const { return vocab_size_; }
  int32_t bos_id() const { return bos_id_; }
  int32_t eos_id() const { return eos_id_; }
  const std::string& chat_template() const { return chat_template_; }   // "" where the file has none

 protected:
  int32_t vocab_size_ = 0;
  int32_t bos_id_ = 2;
  int32_t eos_id_ = 1;
  std::string chat_template_;
};

}  // namespace lorikeet
