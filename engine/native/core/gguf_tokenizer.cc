// Byte-pair encoding by the scores of a GGUF vocabulary. tokenizer.json lists merges instead; for Gemma 3 the two agree when
// a merge ranks by the token it makes (runs of one white-space character first, the longest first; then by score), then by the
// longer left half, then by place in the text. Measured: its 514,906 merges are exactly these, in this order.
#include "gguf_tokenizer.h"

#include <algorithm>
#include <cstring>
#include <queue>

#include "error.h"
#include "gguf.h"
#include "json.h"
#include "token_table.h"

namespace lorikeet {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";   // U+2581, which stands for a space inside the vocabulary
constexpr uint32_t kNoRank = UINT32_MAX;
constexpr uint64_t kMaxTokens = 1 << 22;
constexpr size_t kMaxTextBytes = size_t{1} << 30;
constexpr size_t kSmallPiece = 32;         // symbols up to which a scan beats a heap

// Bytes of the UTF-8 character at the start of `s`; 1 for a byte that starts none.
size_t char_bytes(std::string_view s) {
  const auto lead = static_cast<uint8_t>(s[0]);
  const size_t n = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  return n > 1 && s.size() >= n && is_utf8(s.substr(0, n)) ? n : 1;
}

class SpmTokenizer final : public GgufTokenizer {
 public:
  explicit SpmTokenizer(const Gguf& file) {
    check_model(file);
    read_tokens(file);
    rank_tokens(file);
    find_boundaries();
    bos_id_ = special_id(file, "tokenizer.ggml.bos_token_id", 2);
    eos_id_ = special_id(file, "tokenizer.ggml.eos_token_id", 1);
    unknown_id_ = special_id(file, "tokenizer.ggml.unknown_token_id", 3);
    chat_template_ = file.string("tokenizer.chat_template").value_or("");
  }

  std::vector<int32_t> encode(std::string_view text, bool parse_special) const override {
    if (text.size() > kMaxTextBytes) throw Error("INVALID_REQUEST", "a text of more than 1 GiB");
    std::vector<int32_t> ids;
    std::string plain;                     // text since the last cut-out token, spaces written as U+2581
    for (size_t at = 0; at < text.size();) {
      int32_t id = kNone;
      const size_t length = !added_.starts(text[at]) ? 0 : added_.match(text.substr(at), id, [&](int32_t token) {
        return parse_special || !is_protected_[static_cast<size_t>(token)];
      });
      if (length > 0) {
        encode_plain(plain, ids);
        plain.clear();
        ids.push_back(id);
        at += length;
      } else if (text[at] == ' ') {
        plain += kSpace;
        ++at;
      } else {
        plain += text[at++];
      }
    }
    encode_plain(plain, ids);
    return ids;
  }

  Table table() const override {
    Table table;
    table.offsets.push_back(0);
    for (int32_t id = 0; id < vocab_size_; ++id) {
      append_decoded(id, table.bytes);
      table.offsets.push_back(static_cast<uint32_t>(table.bytes.size()));
    }
    table.kinds = kinds_;
    return table;
  }

 private:
  TokenKind kind(int32_t id) const { return static_cast<TokenKind>(kinds_[static_cast<size_t>(id)]); }

  static void check_model(const Gguf& file) {
    const std::string model = file.string("tokenizer.ggml.model").value_or("");
    if (model != "llama")
      throw Error("UNSUPPORTED", "the file's tokenizer is " + json_quote(model) + ", Gemma 3 files have \"llama\" (SentencePiece)");
    const GgufValue* prefix = file.find("tokenizer.ggml.add_space_prefix");
    if (prefix == nullptr || prefix->type != GgufType::kBool || prefix->bytes[0] != 0) {
      throw Error("UNSUPPORTED", "the file's tokenizer adds a space before the text, Gemma 3's does not");
    }
  }

  static const GgufValue& array(const Gguf& file, const char* key, GgufType item, uint64_t count) {
    const GgufValue* value = file.find(key);
    if (value == nullptr || value->type != GgufType::kArray || value->item != item || (count != 0 && value->count != count)) {
      throw Error("FILE_INVALID", std::string(key) + " is absent, of another type or of another length than the tokens");
    }
    return *value;
  }

  void read_tokens(const Gguf& file) {
    const GgufValue& tokens = array(file, "tokenizer.ggml.tokens", GgufType::kString, 0);
    if (tokens.count < 2 || tokens.count > kMaxTokens)
      throw Error("FILE_INVALID", "tokenizer.ggml.tokens has " + std::to_string(tokens.count) + " entries");
    const GgufValue& types = array(file, "tokenizer.ggml.token_type", GgufType::kI32, tokens.count);
    vocab_size_ = static_cast<int32_t>(tokens.count);
    vocabulary_.reserve(tokens.count, tokens.bytes.size());
    kinds_.resize(tokens.count);
    is_protected_.resize(tokens.count);
    std::fill(std::begin(byte_ids_), std::end(byte_ids_), kNone);
    GgufStrings strings(tokens);
    for (int32_t id = 0; id < vocab_size_; ++id) {
      int32_t type;
      std::memcpy(&type, types.bytes.data() + size_t{4} * static_cast<size_t>(id), 4);
      if (type < 1 || type > 6)
        throw Error("FILE_INVALID", "token " + std::to_string(id) + " has the unknown type " + std::to_string(type));
      kinds_[static_cast<size_t>(id)] = static_cast<uint8_t>(type);
      add_token(id, strings.next());
    }
  }

  void add_token(int32_t id, std::string_view text) {
    // Runs of plain spaces in the file are runs of U+2581 in tokenizer.json.
    std::string token;
    for (const char c : text) {
      if (c == ' ') token += kSpace;
      else token += c;
    }
    vocabulary_.add(token);
    if (kind(id) == TokenKind::kByte) {
      const int byte = parse_byte(text);
      if (byte < 0) throw Error("FILE_INVALID", "token " + std::to_string(id) + " is a byte, but not written as <0xNN>");
      byte_ids_[byte] = id;
    }
    if ((kind(id) == TokenKind::kControl || kind(id) == TokenKind::kUserDefined) && !token.empty()) added_.add(token, id);
    is_protected_[static_cast<size_t>(id)] = is_protected(text, kind(id));
  }

  // Control tokens must not be typed by a user. As in tokenizer.json, <mask> and the <unusedN> are not special,
  // the two image marks are.
  static bool is_protected(std::string_view token, TokenKind kind) {
    if (token == "<start_of_image>" || token == "<end_of_image>") return true;
    return kind == TokenKind::kControl && token != "<mask>" && !token.starts_with("<unused");
  }

  static int parse_byte(std::string_view token) {
    static constexpr std::string_view kDigits = "0123456789ABCDEF";
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
    const size_t high = kDigits.find(token[3]), low = kDigits.find(token[4]);
    return high == std::string_view::npos || low == std::string_view::npos ? -1 : static_cast<int>(high * 16 + low);
  }

  // rank_[id]: order in which tokens are made by merging; kNoRank for those that never are.
  void rank_tokens(const Gguf& file) {
    const GgufValue& value = array(file, "tokenizer.ggml.scores", GgufType::kF32, static_cast<uint64_t>(vocab_size_));
    std::vector<float> scores(static_cast<size_t>(vocab_size_));
    std::memcpy(scores.data(), value.bytes.data(), value.bytes.size());
    std::vector<int32_t> order;
    for (int32_t id = 0; id < vocab_size_; ++id) {
      const bool made = kind(id) == TokenKind::kNormal || kind(id) == TokenKind::kUserDefined;
      if (made && !is_protected_[static_cast<size_t>(id)] && scores[static_cast<size_t>(id)] == scores[static_cast<size_t>(id)])
        order.push_back(id);
    }
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      const bool user_a = kind(a) == TokenKind::kUserDefined, user_b = kind(b) == TokenKind::kUserDefined;
      if (user_a != user_b) return user_a;
      if (user_a) return vocabulary_[a].size() > vocabulary_[b].size();
      return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
    });
    rank_.assign(static_cast<size_t>(vocab_size_), kNoRank);
    for (size_t i = 0; i < order.size(); ++i) rank_[static_cast<size_t>(order[i])] = static_cast<uint32_t>(i);
  }

  // Which neighbours occur inside some token: text is cut wherever they do not, so that merging works on short pieces.
  void find_boundaries() {
    joined_.assign(65536, false);
    for (int32_t id = 0; id < vocab_size_; ++id) {
      if (rank_[static_cast<size_t>(id)] == kNoRank) continue;
      const std::string_view token = vocabulary_[id];
      for (size_t at = 0; at < token.size();) {
        if (at > 0) mark_joined(token, at);
        at += char_bytes(token.substr(at));
      }
    }
  }

  void mark_joined(std::string_view token, size_t at) {
    const auto before = static_cast<uint8_t>(token[at - 1]), after = static_cast<uint8_t>(token[at]);
    if (token.substr(at).starts_with(kSpace)) joined_to_space_[before] = true;
    else joined_[size_t{before} << 8 | after] = true;
  }

  bool is_boundary(std::string_view text, size_t at) const {
    const auto before = static_cast<uint8_t>(text[at - 1]), after = static_cast<uint8_t>(text[at]);
    return text.substr(at).starts_with(kSpace) ? !joined_to_space_[before] : !joined_[size_t{before} << 8 | after];
  }

  // A stretch of text that stands for one token, in a doubly linked list.
  struct Symbol {
    uint32_t begin, size;
    int32_t previous, next;
    int32_t id;
    uint32_t rank;                         // of the token that this symbol and its successor make
  };

  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const {
    thread_local std::vector<Symbol> symbols;
    symbols.clear();
    for (size_t at = 0; at < text.size();) {
      const size_t n = char_bytes(text.substr(at));
      symbols.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(n), kNone, kNone, vocabulary_.find(text.substr(at, n)), kNoRank});
      at += n;
      if (at < text.size() && !is_boundary(text, at)) continue;
      merge(text, symbols);
      emit(text, symbols, ids);
      symbols.clear();
    }
    if (symbols.capacity() > 1 << 16) symbols.shrink_to_fit();
  }

  void merge(std::string_view text, std::vector<Symbol>& symbols) const {
    const auto n = static_cast<int32_t>(symbols.size());
    for (int32_t i = 0; i < n; ++i) {
      symbols[static_cast<size_t>(i)].previous = i - 1;
      symbols[static_cast<size_t>(i)].next = i + 1 < n ? i + 1 : kNone;
    }
    for (int32_t i = 0; i + 1 < n; ++i) rank_pair(text, symbols, i);
    if (symbols.size() <= kSmallPiece) merge_small(text, symbols);
    else merge_large(text, symbols);
  }

  void rank_pair(std::string_view text, std::vector<Symbol>& symbols, int32_t i) const {
    Symbol& left = symbols[static_cast<size_t>(i)];
    left.rank = kNoRank;
    if (left.next == kNone) return;
    const int32_t id = vocabulary_.find(text.substr(left.begin, left.size + symbols[static_cast<size_t>(left.next)].size));
    if (id != kNone) left.rank = rank_[static_cast<size_t>(id)];
  }

  // Joins symbol i with its successor; ranks of both neighbouring pairs are renewed.
  void join(std::string_view text, std::vector<Symbol>& symbols, int32_t i) const {
    Symbol& left = symbols[static_cast<size_t>(i)];
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    left.size += right.size;
    left.id = vocabulary_.find(text.substr(left.begin, left.size));
    left.next = right.next;
    right.size = 0;
    if (left.next != kNone) symbols[static_cast<size_t>(left.next)].previous = i;
    rank_pair(text, symbols, i);
    if (left.previous != kNone) rank_pair(text, symbols, left.previous);
  }

  // Order of merges in one number: rank, then the longer left half, then the place.
  static uint64_t merge_key(const Symbol& left, int32_t i) {
    return uint64_t{left.rank} << 40 | uint64_t{255 - std::min<uint32_t>(left.size, 255)} << 32 | static_cast<uint32_t>(i);
  }

  void merge_small(std::string_view text, std::vector<Symbol>& symbols) const {
    while (true) {
      uint64_t best = UINT64_MAX;
      for (int32_t i = 0; i != kNone; i = symbols[static_cast<size_t>(i)].next) {
        const Symbol& s = symbols[static_cast<size_t>(i)];
        if (s.rank != kNoRank) best = std::min(best, merge_key(s, i));
      }
      if (best == UINT64_MAX) return;
      join(text, symbols, static_cast<int32_t>(best & UINT32_MAX));
    }
  }

  void merge_large(std::string_view text, std::vector<Symbol>& symbols) const {
    std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> queue;
    const auto push = [&](int32_t i) {
      if (i != kNone && symbols[static_cast<size_t>(i)].rank != kNoRank) queue.push(merge_key(symbols[static_cast<size_t>(i)], i));
    };
    for (size_t i = 0; i < symbols.size(); ++i) push(static_cast<int32_t>(i));
    while (!queue.empty()) {
      const uint64_t key = queue.top();
      queue.pop();
      const auto i = static_cast<int32_t>(key & UINT32_MAX);
      const Symbol& s = symbols[static_cast<size_t>(i)];
      if (s.size == 0 || s.rank == kNoRank || merge_key(s, i) != key) continue;   // an older state of the pair
      join(text, symbols, i);
      push(i);
      push(s.previous);
    }
  }

  void emit(std::string_view text, const std::vector<Symbol>& symbols, std::vector<int32_t>& ids) const {
    for (int32_t i = 0; i != kNone; i = symbols[static_cast<size_t>(i)].next) {
      const Symbol& s = symbols[static_cast<size_t>(i)];
      if (s.id != kNone && rank_[static_cast<size_t>(s.id)] != kNoRank) {
        ids.push_back(s.id);
        continue;
      }
      for (const char c : text.substr(s.begin, s.size)) {
        const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
        ids.push_back(id == kNone ? unknown_id_ : id);
      }
    }
  }

  void append_decoded(int32_t id, std::vector<uint8_t>& out) const {
    const std::string_view token = vocabulary_[id];
    if (kind(id) == TokenKind::kByte) {
      out.push_back(static_cast<uint8_t>(parse_byte(token)));
      return;
    }
    for (size_t at = 0; at < token.size();) {
      const bool space = token.substr(at).starts_with(kSpace);
      out.push_back(space ? ' ' : static_cast<uint8_t>(token[at]));
      at += space ? kSpace.size() : 1;
    }
  }

  int32_t special_id(const Gguf& file, const char* key, int32_t fallback) const {
    const int64_t id = file.integer(key).value_or(fallback);
    if (id < 0 || id >= vocab_size_)
      throw Error("FILE_INVALID", std::string(key) + " is " + std::to_string(id) + ", outside the vocabulary");
    return static_cast<int32_t>(id);
  }

  Vocabulary vocabulary_;                  // spaces as U+2581
  Trie added_;
  std::vector<uint8_t> kinds_;
  std::vector<bool> is_protected_;
  std::vector<uint32_t> rank_;
  std::vector<bool> joined_;               // [last byte of a character << 8 | first byte of the next]
  bool joined_to_space_[256] = {};         // [last byte of a character before U+2581]
  int32_t byte_ids_[256];
  int32_t unknown_id_ = 3;
};

}  // namespace

std::unique_ptr<GgufTokenizer> GgufTokenizer::open(const std::string& path) {
  const Gguf file = Gguf::open(path);
  try {
    return std::make_unique<SpmTokenizer>(file);
  } catch (const Error& error) {
    throw Error(error.code(), path + ": " + error.what());
  }
}

}  // namespace lorikeet
