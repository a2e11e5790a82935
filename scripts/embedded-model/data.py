"""Packed training rows from the generator, made by worker processes while the model trains."""

from __future__ import annotations

import multiprocessing as mp
import os
import random
import re
import traceback

import numpy as np

PAD, EOS, BOS, START, END = 0, 1, 2, 105, 106
BRANCHES = 32  # branches of a group are numbered below this
SHARE = {"sql": 0.4, "sql-explain": 0.6, "sql-postgres": 0.6}  # room for answer tokens among all; what is over is left out


def draw(task: str, rng: random.Random) -> list:
    """A group of samples that begin alike, or one sample."""
    import prompts
    if task == "sql-explain":
        return [prompts.explanation(rng, "train")]
    if task == "sql-postgres":
        return prompts.dialect(rng, "train")
    return prompts.group(rng)


def answer_weights(ids: list[int], model_id: int) -> np.ndarray:
    """1 on what the model says and on <end_of_turn>, 0 elsewhere."""
    weights = np.zeros(len(ids), dtype=np.uint8)
    array = np.array(ids)
    for i in np.flatnonzero((array[:-1] == START) & (array[1:] == model_id)).tolist():
        weights[i + 3: ids.index(END, i) + 1] = 1
    return weights


def common(tokens: list[list[int]]) -> int:
    """How many tokens all the lists begin with."""
    first, last = min(tokens), max(tokens)
    n = 0
    while n < len(first) and n < len(last) and first[n] == last[n]:
        n += 1
    return n


def merge(tokens: list[list[int]], model_id: int) -> np.ndarray:
    """[4, n]: ids, weights, branch (0: the common beginning), positions. A branch sees the beginning and itself (model.sees)."""
    n = common(tokens) if len(tokens) > 1 else len(tokens[0])
    parts = [np.stack([tokens[0][:n], answer_weights(tokens[0], model_id)[:n], np.zeros(n), np.arange(n)])]
    for i, t in enumerate(tokens if len(tokens) > 1 else [], 1):
        parts.append(np.stack([t[n:], answer_weights(t, model_id)[n:], np.full(len(t) - n, i), np.arange(n, len(t))]))
    return np.concatenate(parts, 1).astype(np.int16)


def shared(texts: list[str]) -> int:
    """Length of what the texts begin with, back to a line's end: no token reaches over it."""
    if len(texts) < 2:
        return 0
    text = os.path.commonprefix(texts)
    return len(text[: text.rfind("\n") + 1].rstrip("\n"))


def encode(tokenizer, groups: list[list], model_id: int) -> list[np.ndarray]:
    from prompts import render
    texts = [[render(s.messages) for s in g] for g in groups]
    cuts = [shared(t) for t in texts]
    flat = iter(tokenizer.encode_batch_fast([part for g, cut in zip(texts, cuts) for part in (g[0][:cut], *(t[cut:] for t in g))], add_special_tokens=False))
    out = []
    for g in texts:
        begin = [BOS, *next(flat).ids]
        out.append(merge([begin + next(flat).ids for _ in g], model_id))
    return out


def pack(encoded: list[np.ndarray], length: int, open_rows: list, want: int):
    """First fit into open rows; yields rows [4, length] (ids, weights, document * BRANCHES + branch, positions) once more than `want` are open."""
    for e in encoded:
        n = e.shape[1]
        if n > length:
            continue
        for row in open_rows:
            if row[1] + n <= length:
                break
        else:
            row = [np.zeros((4, length), np.int16), 0, 0]
            row[0][2] = -1
            open_rows.append(row)
        e[2] += row[2] * BRANCHES
        row[0][:, row[1]: row[1] + n] = e
        row[1] += n
        row[2] += 1
    open_rows.sort(key=lambda r: -r[1])
    while len(open_rows) > want:
        yield open_rows.pop(0)[0]


def batch(rows: list[np.ndarray], share: float) -> tuple[np.ndarray, ...]:
    """(ids, groups, positions [rows, length], where, targets, weights [n]): n = share of all tokens have a place for the loss. `where` is the
    token before an answer's; the places left over have weight 0 and no token twice. (Branches never begin inside an answer.)
    """
    ids, weights, groups, positions = np.stack(rows, 1)
    n = int(ids.size * share)
    after = np.flatnonzero(weights.reshape(-1))[:n]
    idle = np.ones(ids.size, bool)
    idle[after - 1] = False
    where = np.concatenate([after - 1, np.flatnonzero(idle)[: n - len(after)]]).astype(np.int32)
    return ids, groups, positions, where, ids.reshape(-1)[np.minimum(where + 1, ids.size - 1)], (np.arange(n) < len(after)).astype(np.uint8)


def _work(queue, tokenizer_file: str, task: str, seed: int, length: int, rows: int):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer
    import schema
    tok = Tokenizer.from_file(tokenizer_file)
    model_id = tok.token_to_id("model")
    schema.PIECES[:] = sorted(t for t in tok.get_vocab() if re.fullmatch("[a-z]{2,7}", t))
    rng = random.Random(seed)
    open_rows: list = []
    full: list = []
    while True:
        groups = []
        for _ in range(64):
            try:
                groups.append(draw(task, rng))
            except Exception:  # one bad sample must not cost the run; the traceback says what to mend
                traceback.print_exc()
        for row in pack(encode(tok, groups, model_id), length, open_rows, 12):
            full.append(row)
            if len(full) == rows:
                queue.put(batch(full, SHARE[task]))
                full = []


class Stream:
    """Batches as `batch` makes them. Each worker's samples follow from the seed; their order in the stream does not."""

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
