// The tokenizer of GGUF files. Usage: gguf_tokenizer_test [GOLDENS_DIR]. The real 270M is taken from build/models, where
// `npm test` installs it, or from LORIKEET_TEST_GGUF.
#include "../core/checkpoint.h"
#include "../core/gguf_tokenizer.h"
#include "../core/json.h"
#include "../core/mapped_file.h"
#include "tiny_model.h"

namespace lorikeet::testing {
namespace {

void test_tiny_tokenizer() {
  const Scratch dir;
  write_text(dir / "x.gguf", tiny_gguf().text());
  const auto tokenizer = GgufTokenizer::open(dir / "x.gguf");
  const auto encodes = [&](const char* text, bool special, std::vector<int32_t> ids, const char* behaviour) {
    check(tokenizer->encode(text, special) == ids, behaviour);
  };
  encodes("", true, {}, "no text, no ids");
  encodes("ab", true, {13}, "a pair merges by score");
  encodes("aba", true, {13, 10}, "the better score merges first");
  encodes(" ab", true, {14}, "a space belongs to the word behind it");
  encodes("  ab", true, {6, 13}, "a run of spaces goes before a word's own space");
  encodes("a<b>b", false, {10, 7, 11}, "user-defined tokens are always cut out");
  encodes("<eos>a", true, {1, 10}, "control tokens are recognised where that is asked for");
  encodes("<unused0>", false, {5}, "an unused token is no secret");
  encodes("A\xff", false, {8, 9}, "unknown characters become bytes, broken UTF-8 too");
  check(tokenizer->encode("<bos>", false) == std::vector<int32_t>({3, 11, 3, 3, 3}), "a user cannot type a control token");
  const GgufTokenizer::Table table = tokenizer->table();
  const auto text = [&](int id) {
    return std::string(table.bytes.begin() + table.offsets[static_cast<size_t>(id)],
                       table.bytes.begin() + table.offsets[static_cast<size_t>(id) + 1]);
  };
  check(text(8) == "A" && text(9) == "\xff" && text(14) == " ab" && text(6) == "  " && text(1) == "<eos>" && table.kinds[9] == 6,
        "the table decodes bytes and spaces");
}

void test_real_gguf(const std::string& goldens, const std::string& path) {
  const auto tokenizer = GgufTokenizer::open(path);
  const Json cases = Json::parse(read_text(goldens + "/tokenizer/cases.json"));
  const auto ids_of = [](const Json& list) {
    std::vector<int32_t> ids;
    for (const Json& id : list.items()) ids.push_back(static_cast<int32_t>(id.as_int("")));
    return ids;
  };
  int n_equal = 0;
  for (const Json& item : cases.find("texts")->items()) {
    const std::string& text = item.find("text")->as_string("");
    const Json* plain = item.find("ids_as_plain_text");
    const std::vector<int32_t> ids = ids_of(*item.find("ids"));
    // The file ends before <image_soft_token>.
    const bool special = tokenizer->encode(text, true) == ids || text == "<image_soft_token>";
    const bool as_text = tokenizer->encode(text, false) == (plain == nullptr ? ids : ids_of(*plain));
    n_equal += special && as_text ? 1 : 0;
    if (!special || !as_text) std::printf("differs: %s\n", json_quote(text).c_str());
  }
  check(n_equal == static_cast<int>(cases.find("texts")->items().size()), "the GGUF's tokenizer equals tokenizer.json on every string");
  const auto model = open_checkpoint(path, {WeightFormat::kF32, "", {}});
  check(model->config().name == path_name(path).substr(0, path_name(path).size() - 5) && model->config().n_layers == 18 &&
            model->config().vocab_size == 262144,
        "the real 270M is read");
}

}  // namespace
}  // namespace lorikeet::testing

int main(int n_args, char** args) {
  using namespace lorikeet::testing;
  test_tiny_tokenizer();
  const std::string goldens = goldens_directory(n_args, args);
  if (goldens.empty()) return finish();
  const char* named = ::getenv("LORIKEET_TEST_GGUF");
  const std::string root = std::filesystem::path(__FILE__).parent_path().string() + "/../../..";
  const std::string gguf = named != nullptr ? named : root + "/build/models/gemma-3-270m-q4_k_m.gguf";
  if (lorikeet::is_file(gguf)) test_real_gguf(goldens, gguf);
  else std::printf("skipped: the real 270M (not at %s)\n", gguf.c_str());
  return finish();
}
