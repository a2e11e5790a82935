"""Proves that no schema, table or column name of held-out.jsonl occurs in training, but for the declared `schema.SHARED`.

By construction: every test name fails the gate of the training side (`schema.allowed(name, "train")`), through which every training
schema passes. By sampling: no name in --samples training samples is a test name. Names are compared without case and punctuation.

usage: check_split.py [--samples 100000]
"""

from __future__ import annotations

import argparse
import random
import sqlite3

from evaluate import held_out
from prompts import group
from schema import SHARED, allowed, norm


def test_names() -> tuple[set[str], int]:
    names, schemas = set(), set()
    for s in held_out():
        if s["ddl"] is None:
            continue
        schemas.add(s["ddl"])
        db = sqlite3.connect(":memory:")
        db.executescript(s["ddl"])
        for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            names |= {norm(table)} | {norm(c[1]) for c in db.execute(f'PRAGMA table_info("{table}")')}
    return names - SHARED, len(schemas)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--samples", type=int, default=100000)
    args = p.parse_args()
    test, schemas = test_names()
    passing = sorted(n for n in test if allowed(n, "train"))
    rng = random.Random(1)
    train: set[str] = set()
    drawn = 0
    while drawn < args.samples:
        samples = group(rng)
        drawn += len(samples)
        for schema in {id(s.schema): s.schema for s in samples if s.schema}.values():
            train |= schema.identifiers()
    common = sorted(test & train)
    print(f"test: {schemas} schemas, {len(test)} names; training: {len(train)} names of {drawn} samples; declared shared: {sorted(SHARED)}")
    print(f"test names that the training gate would pass: {passing}; names in common: {common}")
    raise SystemExit(bool(passing or common))


if __name__ == "__main__":
    main()
