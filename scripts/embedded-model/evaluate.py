"""Greedy answers of the embedded model, judged by running them.

usage: evaluate.py --model DIR [--set held-out|hand-written|explain|postgres] [--adapter DIR] [--n 800] [--out FILE] [--device cpu|cuda]

held-out: execution accuracy on unseen schemas, by kind of query. A query is right if on three SQLite databases with generated rows it
returns the same rows as the reference (in order where the reference orders), or leaves the same tables behind. hand-written: the same
for handwritten.py; of several references any counts. explain, postgres: exact match with the adapter's target text.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import time
from pathlib import Path

import torch

import nf4
from databases import from_ddl, same_outcome
from prompts import explanation, render, single
from query import to_sql

BOS = 2


def load(path: Path, adapter: Path | None, device: str):
    """The checkpoint with its NF4 linears dequantised to the bf16 values they stand for."""
    from safetensors import safe_open
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig
    from tokenizers import Tokenizer
    state = nf4.read_checkpoint(path)
    if adapter:
        c = json.loads((adapter / "adapter_config.json").read_text())
        with safe_open(adapter / "adapter_model.safetensors", "pt") as f:
            for k in f.keys():
                if ".lora_A." in k:
                    name = k.removeprefix("base_model.model.").replace(".lora_A", "")
                    state[name] = (state[name].float() + c["lora_alpha"] / c["r"] * f.get_tensor(k.replace("lora_A", "lora_B")).float() @ f.get_tensor(k).float()).to(torch.bfloat16)
    config = Gemma3TextConfig(**{k: v for k, v in json.loads((path / "config.json").read_text()).items() if k not in ("quantization_config", "architectures", "model_type", "torch_dtype", "rope_theta", "rope_local_base_freq", "rope_scaling")})
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = Gemma3ForCausalLM(config).to(dtype)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict({k: v.to(dtype) for k, v in state.items()}, strict=True)
    # sqrt(hidden) is rounded to bf16 in a bf16 load, whatever the arithmetic here.
    scale = model.model.embed_tokens.embed_scale
    scale.copy_(scale.to(torch.bfloat16).to(scale.dtype))
    torch.set_num_threads(1)
    return model.to(device).eval(), Tokenizer.from_file(str(path / "tokenizer.json"))


@torch.no_grad()
def answer(model, tokenizer, prompts: list[str], batch: int = 32, limit: int = 160) -> list[tuple[str, bool]]:
    """(text, ended by <end_of_turn>) of each prompt."""
    encoded = [[BOS, *e.ids] for e in tokenizer.encode_batch(prompts, add_special_tokens=False)]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    out: list = [None] * len(encoded)
    for start in range(0, len(order), batch):
        part = order[start: start + batch]
        width = max(len(encoded[i]) for i in part)
        ids = torch.tensor([[0] * (width - len(encoded[i])) + encoded[i] for i in part], device=model.device)
        mask = torch.tensor([[0] * (width - len(encoded[i])) + [1] * len(encoded[i]) for i in part], device=model.device)
        got = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=limit, do_sample=False, eos_token_id=[1, 106], pad_token_id=0)[:, width:]
        for i, row in zip(part, got.tolist()):
            end = row.index(106) if 106 in row else len(row)
            out[i] = (tokenizer.decode(row[:end]), 106 in row)
    return out


def held_out() -> list[dict]:
    """The frozen test set: {kind, messages, sql (null: an answer in words), ddl} a line; written by make_held_out.py."""
    return [json.loads(line) for line in (Path(__file__).parent / "held-out.jsonl").read_text().splitlines()]


def judge_sample(s: dict, text: str) -> bool:
    if s["sql"] is None:
        return text == s["messages"][-1]["content"]
    return any_right(lambda seed: from_ddl(s["ddl"], s["sql"], seed), [s["sql"]], text)


def any_right(make, golds: list[str], text: str) -> bool:
    if text in golds:
        return True
    return any(all(same_outcome(lambda seed=seed: make(seed), g, text) for seed in (1, 2, 3)) for g in golds)


def report(rows: list[tuple[str, bool]], title: str) -> dict:
    by = collections.defaultdict(lambda: [0, 0])
    for kind, ok in rows:
        by[kind][0] += ok
        by[kind][1] += 1
    print(f"\n| {title} | right | of | % |\n| --- | --- | --- | --- |")
    for kind, (a, b) in sorted(by.items()):
        print(f"| {kind} | {a} | {b} | {100 * a / b:.1f} |")
    total = sum(ok for _, ok in rows)
    print(f"| **all** | {total} | {len(rows)} | {100 * total / len(rows):.1f} |")
    return {"right": total, "of": len(rows), "kinds": {k: v for k, v in sorted(by.items())}}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, required=True)
    p.add_argument("--adapter", type=Path)
    p.add_argument("--set", default="held-out", choices=["held-out", "hand-written", "hand-written-dev", "explain", "postgres"])
    p.add_argument("--n", type=int, default=800)
    p.add_argument("--out", type=Path)
    p.add_argument("--prompts", type=Path, help="only write the prompts of the set to this file, for --answer on another machine")
    p.add_argument("--answer", type=Path, help="only answer the prompts of this file, into --answers")
    p.add_argument("--answers", type=Path, help="file of answers: read where it exists")
    p.add_argument("--show", type=int, default=0, help="print so many wrong answers")
    p.add_argument("--device", default="cpu")
    p.add_argument("--batch", type=int, default=32)
    args = p.parse_args()
    t0 = time.time()

    def answers(prompts: list[str]):
        if args.prompts:
            args.prompts.write_text(json.dumps(prompts))
            raise SystemExit
        if args.answers and args.answers.exists():
            return json.loads(args.answers.read_text())
        return answer(*load(args.model, args.adapter, args.device), prompts, args.batch)
    if args.answer:
        args.answers.write_text(json.dumps(answers(json.loads(args.answer.read_text()))))
        return
    if args.set.startswith("hand-written"):
        import handwritten
        items = handwritten.items("dev" if args.set.endswith("dev") else "test")
        got = answers([i.prompt for i in items])
        rows = [(i.kind, any_right(i.database, i.golds, g), i.prompt, i.golds[0], g, end) for i, (g, end) in zip(items, got)]
    else:
        rng = random.Random(77)
        samples = held_out()[: args.n] if args.set == "held-out" else [adapter_sample(args.set, rng) for _ in range(args.n)]
        got = answers([render(s["messages"][:-1], True) for s in samples])
        judge = judge_sample if args.set == "held-out" else lambda s, g: g == s["messages"][-1]["content"]
        rows = [(s["kind"], judge(s, g), s["messages"][-2]["content"], s["messages"][-1]["content"], g, end) for s, (g, end) in zip(samples, got)]
    result = report([r[:2] for r in rows], args.set)
    result["ended"] = sum(r[5] for r in rows)
    print(f"ended by <end_of_turn>: {result['ended']} of {len(rows)}; {time.time() - t0:.0f} s on {args.device}")
    for r in [r for r in rows if not r[1]][: args.show]:
        print(f"\n[{r[0]}] {r[2][-700:]}\n  want {r[3]}\n  got  {r[4]}")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def adapter_sample(task: str, rng: random.Random) -> dict:
    """A held-out sample of an adapter's task; of PostgreSQL only those whose text differs from SQLite's."""
    while True:
        s = explanation(rng, "test") if task == "explain" else single(rng, "test", "postgres")
        if task == "explain" or to_sql(s.statements[0], "postgres") != to_sql(s.statements[0]):
            return {"kind": s.kind, "messages": s.messages}


if __name__ == "__main__":
    main()
