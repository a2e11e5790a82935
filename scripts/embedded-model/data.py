"""Packed training rows from the generator, made by worker processes while the model trains."""

from __future__ import annotations

import multiprocessing as mp
import os
import random
import re
import traceback

import numpy as np

PAD, EOS, BOS, START, END = 0, 1, 2, 105, 106
TASKS = ("sql", "sql-explain", "sql-postgres")


def draw(task: str, rng: random.Random):
    import prompts
    if task == "sql-explain":
        return prompts.explanation(rng, "train")
    if task == "sql-postgres":
        return prompts.single(rng, "train", "postgres")
    return prompts.sample(rng)


def encode(tokenizer, samples, model_id: int, newline: int):
    """[(ids, weights)]: weight 1 on what the model says and on <end_of_turn>, 0 elsewhere."""
    from prompts import render
    out = []
    for e in tokenizer.encode_batch_fast([render(s.messages) for s in samples], add_special_tokens=False):
        ids = [BOS, *e.ids]
        weights = np.zeros(len(ids), dtype=np.uint8)
        i = 0
        while i < len(ids) - 3:
            if ids[i] == START and ids[i + 1] == model_id:
                j = ids.index(END, i)
                weights[i + 3: j + 1] = 1
                i = j
            i += 1
        out.append((ids, weights))
    return out


def pack(encoded, length: int, open_rows: list, want: int):
    """First fit into open rows; yields rows (ids, weights) once more than `want` rows are open."""
    for ids, weights in encoded:
        if len(ids) > length:
            continue
        for row in open_rows:
            if row[2] + len(ids) <= length:
                break
        else:
            row = [np.zeros(length, np.int16), np.zeros(length, np.uint8), 0]
            open_rows.append(row)
        n = row[2]
        row[0][n: n + len(ids)] = ids
        row[1][n: n + len(ids)] = weights
        row[2] = n + len(ids)
    open_rows.sort(key=lambda r: -r[2])
    while len(open_rows) > want:
        yield open_rows.pop(0)[:2]


def _work(queue, tokenizer_file: str, task: str, seed: int, length: int, rows: int):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer
    import schema
    tok = Tokenizer.from_file(tokenizer_file)
    model_id, newline = tok.token_to_id("model"), tok.token_to_id("\n")
    schema.PIECES[:] = sorted(t for t in tok.get_vocab() if re.fullmatch("[a-z]{2,7}", t))
    rng = random.Random(seed)
    open_rows: list = []
    batch: list = []
    while True:
        samples = []
        for _ in range(128):
            try:
                samples.append(draw(task, rng))
            except Exception:  # one bad sample must not cost the run; the traceback says what to mend
                traceback.print_exc()
        for ids, weights in pack(encode(tok, samples, model_id, newline), length, open_rows, 12):
            batch.append((ids, weights))
            if len(batch) == rows:
                queue.put((np.stack([b[0] for b in batch]), np.stack([b[1] for b in batch])))
                batch = []


class Stream:
    """Batches (ids [rows, length] int16, weights uint8). Each worker's samples follow from the seed; their order in the stream does not."""

    def __init__(self, tokenizer_file: str, task: str, seed: int, length: int, rows: int, workers: int):
        ctx = mp.get_context("fork")
        self.queue = ctx.Queue(maxsize=64)
        self.procs = [ctx.Process(target=_work, args=(self.queue, tokenizer_file, task, seed * 1000 + i, length, rows), daemon=True) for i in range(workers)]
        for p in self.procs:
            p.start()

    def next(self):
        return self.queue.get(timeout=180)  # raises Empty where the workers have died

    def close(self):
        for p in self.procs:
            p.terminate()
