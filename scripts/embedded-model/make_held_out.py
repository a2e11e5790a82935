"""Writes held-out.jsonl, the frozen test set on unseen schemas. Run once; a changed generator leaves the file as it is.

usage: make_held_out.py [--n 800] [--seed 99] [--out held-out.jsonl]
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from databases import plain_ddl
from prompts import conversation, refusal, single, small_talk
from query import to_sql


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--n", type=int, default=800)
    p.add_argument("--seed", type=int, default=99)
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "held-out.jsonl")
    args = p.parse_args()
    rng = random.Random(args.seed)
    with args.out.open("w") as f:
        for _ in range(args.n):
            r = rng.random()
            s = single(rng, "test") if r < 0.86 else conversation(rng, "test") if r < 0.95 else refusal(rng, "test") if r < 0.98 else small_talk(rng, "test")
            last = s.statements[-1]
            line = {"kind": s.kind, "messages": s.messages, "sql": to_sql(last) if last is not None else None, "ddl": plain_ddl(s.schema) if s.schema else None}
            f.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
