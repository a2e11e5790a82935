// One step as native code sees it: tokens of several rows, their KV blocks, their adapters, and the outputs asked for.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

namespace lorikeet {

constexpr int kBlockTokens = 16;  // tokens of one KV block

/// Tokens [begin, end) of the step belong to one sequence; the first of them stands at `position`.
struct BatchRow {
  int begin = 0, end = 0;
  int position = 0;
  int slot = 0;               // of the sequence table
  int adapter = -1;           // adapter slot, -1 = base
  const int32_t* global_blocks = nullptr;   // logical block b of the row lies in global_blocks[b]
  const int32_t* sliding_blocks = nullptr;  // logical block b lies in sliding_blocks[b - sliding_first]
  int sliding_first = 0;
  int n_global = 0, n_sliding = 0;          // entries in the two tables

  int length() const { return end - begin; }
};

struct BatchOutput {
  int token = 0;         // index into the step's tokens
  int row = 0;
  int target = -1;       // >= 0: score this id; -1: sample
  int n_logprobs = -1;   // -1 none, else alternatives
};

struct Batch {
  std::vector<int32_t> token_ids;  // [T] resolved: no negative id
  std::vector<int32_t> positions;  // [T]
  std::vector<BatchRow> rows;      // [R]
  std::vector<BatchOutput> outputs;

  int n_tokens() const { return int(token_ids.size()); }
};

}  // namespace lorikeet
