"""Trains the tokenizer: BPE with byte fallback, 8,192 entries, Gemma 3's special tokens, ids and chat template.

A space before a word that may be a name is a token of its own, so that an identifier has the same tokens after a space, a bracket or a dot
and can be copied from the schema; spaces before SQL keywords and little words of English are merged with them.

usage: make_tokenizer.py OUT_DIR [--samples 60000] [--template FILE]
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import lexicon as lx
from prompts import explanation, render, sample, single

SPACE = "\u2581"
VOCAB = 8192
KEYWORDS = """SELECT FROM WHERE AND OR NOT IN BETWEEN LIKE ILIKE IS NULL ORDER BY GROUP HAVING LIMIT OFFSET DESC ASC JOIN LEFT ON AS DISTINCT COUNT SUM AVG MAX MIN CASE WHEN THEN ELSE END INSERT INTO VALUES UPDATE SET DELETE CREATE TABLE PRIMARY KEY
FOREIGN REFERENCES INTEGER INT BIGINT SMALLINT SERIAL TEXT VARCHAR CHAR REAL FLOAT DOUBLE DECIMAL NUMERIC MONEY DATE DATETIME TIMESTAMP BOOLEAN BOOL TINYINT DEFAULT UNIQUE IF EXISTS ALTER ADD COLUMN DROP INDEX RENAME TO INTERVAL CURRENT_DATE EXTRACT
TRUE FALSE UNION ALL""".split()
LITTLE = """a an the of in on at by to for from with and or not is are was were be been have has had do does did than that this those these which what who whose where when how many much all each every per any no only also their its it me my i you your
we us our as if then else more less over under above below least most first last number total average highest lowest can please show list give find get""".split()


def pattern() -> str:
    end = r"(?![\p{L}\p{N}_])"
    return "|".join([
        f"{SPACE}(?:{'|'.join(KEYWORDS)}){end}", f"{SPACE}(?:{'|'.join(LITTLE)}){end}",
        rf"{SPACE}(?:<=|>=|<>|!=|=|<|>|\*|\+|-|/){SPACE}", f",{SPACE}", rf"{SPACE}\(", r"\);", r"\(\*\)",
        r"\p{Lu}?\p{Ll}+", r"\p{Lu}+(?!\p{Ll})", r"[\p{L}\p{M}]+", r"\p{N}", f"{SPACE}+", r"\n+", r"\t+", rf"[^\p{{L}}\p{{N}}{SPACE}\n\t]",
    ])


def corpus(n: int):
    rng = random.Random(20)
    for i in range(n):
        s = sample(rng) if i % 10 < 8 else explanation(rng, "train") if i % 10 == 8 else single(rng, "train", "postgres")
        yield from render(s.messages).replace("<start_of_turn>", "\n").replace("<end_of_turn>", "\n").split("\n\n")
        if i % 4 == 0:  # words of the lexicon alone, so that each in all its spellings is worth a token
            yield from (f(w) for f in (str, str.title, str.upper, str) for w in rng.sample(lx.NOUNS + lx.ADJ, 6))


def train(samples: int) -> dict:
    tok = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tok.normalizer = normalizers.Replace(" ", SPACE)
    tok.pre_tokenizer = pre_tokenizers.Split(Regex(pattern()), "isolated")
    byte = [f"<0x{b:02X}>" for b in range(256)]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *byte[:101], "<start_of_turn>", "<end_of_turn>", *byte[101:]]
    ascii_letters = [chr(c) for c in range(33, 127)] + [SPACE, "\n", "\t", "€"]
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, initial_alphabet=ascii_letters, limit_alphabet=110, show_progress=False, min_frequency=2, max_token_length=24)
    tok.train_from_iterator(corpus(samples), trainer)
    spec = json.loads(tok.to_str())
    keep = {"<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"}
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in keep]
    spec["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    one = lambda kind: {"SpecialToken": {"id": "<bos>", "type_id": 0}} if kind == "bos" else {"Sequence": {"id": kind, "type_id": 0 if kind == "A" else 1}}
    spec["post_processor"] = {"type": "TemplateProcessing", "single": [one("bos"), one("A")], "pair": [one("bos"), one("A"), one("bos"), one("B")], "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}}
    return spec


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("out", type=Path)
    p.add_argument("--samples", type=int, default=60000)
    args = p.parse_args()
    spec = train(args.samples)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False))
    Tokenizer.from_str(json.dumps(spec))
    print("entries", len(spec["model"]["vocab"]), "merges", len(spec["model"]["merges"]))


if __name__ == "__main__":
    main()
