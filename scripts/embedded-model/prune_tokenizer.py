"""Drops the merges of word fragments that the training data hardly shows, so that an unseen word is cut into pieces the model knows well.

Whole words keep their entries (`ignore_merges`: a piece that is an entry is not cut further); ids do not change.

usage: prune_tokenizer.py IN OUT [--least 300] [--samples 30000]
"""

from __future__ import annotations

import argparse
import collections
import json
import random
from pathlib import Path

from tokenizers import Tokenizer

from prompts import render, sample


def fragment_counts(tokenizer: Tokenizer, samples: int) -> collections.Counter:
    """How often each entry occurs as a part of a longer word."""
    rng = random.Random(4242)
    counts: collections.Counter = collections.Counter()
    for _ in range(samples // 500):
        for e in tokenizer.encode_batch_fast([render(sample(rng).messages) for _ in range(500)], add_special_tokens=False):
            words = e.word_ids
            for i, token in enumerate(e.ids):
                if (i and words[i - 1] == words[i]) or (i + 1 < len(words) and words[i + 1] == words[i]):
                    counts[token] += 1
    return counts


def prune(spec: dict, counts: collections.Counter, least: int) -> int:
    vocab, merges = spec["model"]["vocab"], spec["model"]["merges"]
    reachable = {t for t in vocab if len(t) == 1}
    kept = []
    for a, b in merges:
        letters = (a + b).isalpha()
        if a in reachable and b in reachable and (not letters or counts[vocab[a + b]] >= least):
            kept.append([a, b])
            reachable.add(a + b)
    spec["model"]["merges"] = kept
    spec["model"]["ignore_merges"] = True
    return len(merges) - len(kept)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--least", type=int, default=300)
    p.add_argument("--samples", type=int, default=30000)
    args = p.parse_args()
    spec = json.loads(args.source.read_text())
    dropped = prune(spec, fragment_counts(Tokenizer.from_file(str(args.source)), args.samples), args.least)
    args.out.write_text(json.dumps(spec, ensure_ascii=False))
    print(f"dropped {dropped} merges of {dropped + len(spec['model']['merges'])}")


if __name__ == "__main__":
    main()
