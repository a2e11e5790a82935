"""Trains the embedded model, or a LoRA adapter over it, on one GPU.

usage: train.py --tokenizer FILE --out DIR [--minutes 7] [--init DIR] [--task sql|sql-explain|sql-postgres] [--rank 6]

Base: fp32 masters, Muon for the linears, AdamW for embeddings and norms, linear decay to zero over the given time. From `--nf4-from` of the
time on, the forward pass runs on the NF4 values of the linears and the gradients pass straight through to the masters.
Adapter: the base is fixed at its NF4 values, AdamW on A and B, the same decay.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import nf4
from data import Stream
from model import Config, Rotary, attend_dense, dense_masks, flex_masks, forward_hidden, head_loss, init_weights, layer


BATCH_TYPES = (torch.long, torch.int32, torch.long, torch.long, torch.long, torch.float32)


def newton_schulz(g: torch.Tensor) -> torch.Tensor:
    """Nearest semi-orthogonal matrix of each g [n, out, in], five steps of the quintic iteration (Muon)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    flip = x.shape[1] > x.shape[2]
    x = x.mT if flip else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.mT if flip else x


def muon_step(w, g, m, lr: float, wd: float, momentum: float):
    m.lerp_(g, 1 - momentum)
    u = newton_schulz(g.lerp(m, momentum))
    w.mul_(1 - lr * wd).add_(u.float(), alpha=-lr * max(1.0, w.shape[1] / w.shape[2]) ** 0.5)


class Trainer:
    def __init__(self, args):
        self.args = args
        self.device = args.device
        self.cuda = args.device == "cuda"
        self.cfg = Config()
        self.linears = list(self.cfg.shapes())
        torch.manual_seed(args.seed)
        self.master = load_master(Path(args.init), self.device) if args.init else init_weights(self.cfg, self.device)
        self.work = {k: v.to(torch.bfloat16) for k, v in self.master.items()}
        self.rotary = Rotary(self.cfg, self.device)
        self.code, self.nested = nf4.CODE.to(self.device), nf4.dynamic_map().to(self.device)
        compiled = torch.compile if self.cuda else (lambda f, **_: f)
        self.quantise = compiled(lambda w, c, n: nf4.quantise(w, c, n)["values"])
        self.run_layer, self.head = compiled(layer), compiled(head_loss)
        if self.cuda:
            from torch.nn.attention.flex_attention import create_block_mask, flex_attention
            make = torch.compile(create_block_mask)
            self.masks = lambda groups, positions: flex_masks(self.cfg, groups, positions, make)
            self.attend = lambda q, k, v, mask: flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
        else:
            self.masks, self.attend = lambda groups, positions: dense_masks(self.cfg, groups, positions), attend_dense

    def loss(self, work, ids, groups, positions, where, targets, weights):
        """Mean loss over answer tokens."""
        x = forward_hidden(self.cfg, work, self.rotary, ids, positions, self.masks(groups, positions), self.attend, self.run_layer)
        return self.head(x.flatten(0, 1)[where], work["norm"], work["embed"], targets, weights) / weights.sum()

    def batch(self, stream):
        return [torch.from_numpy(a).to(self.device, non_blocking=True).to(t) for a, t in zip(stream.next(), BATCH_TYPES)]

    def sync_work(self, quantised: bool):
        with torch.no_grad():
            for k, v in self.master.items():
                self.work[k].copy_(self.quantise(v, self.code, self.nested) if quantised and k in self.linears else v)

    def train_base(self, stream):
        a = self.args
        for v in self.work.values():
            v.requires_grad_(True)
        others = [k for k in self.master if k not in self.linears]
        momentum = {k: torch.zeros_like(self.master[k]) for k in self.linears}
        adam = torch.optim.AdamW([{"params": [self.master["embed"]], "lr": a.embed_lr}, {"params": [self.master[k] for k in others if k != "embed"], "lr": a.norm_lr}], betas=(0.9, 0.95), weight_decay=0.0, fused=self.cuda)
        base_lr = [g["lr"] for g in adam.param_groups]
        t0 = None
        step, seen, log, saved = 0, 0, [], time.time()
        run = []
        while True:
            now = time.time()
            if step == 12:  # the clock starts when everything is compiled
                t0 = now
            progress = 0.0 if t0 is None else (now - t0) / (a.minutes * 60)
            if progress >= 1 or (a.steps and step >= a.steps):
                break
            scale = min(1.0, (step + 1) / a.warmup) * min(1.0, max(0.0, 1 - progress) / a.decay)
            quantised = progress >= a.nf4_from or step < 2 or a.nf4_from == 0
            self.sync_work(quantised)
            ids, *rest = self.batch(stream)
            loss = self.loss(self.work, ids, *rest)
            loss.backward()
            with torch.no_grad():
                for k in self.linears:
                    muon_step(self.master[k], self.work[k].grad.float(), momentum[k], a.lr * scale, a.wd, 0.95)
                    self.work[k].grad = None
                for k in others:
                    self.master[k].grad = self.work[k].grad.float()
                    self.work[k].grad = None
                for g, lr in zip(adam.param_groups, base_lr):
                    g["lr"] = lr * scale
                adam.step()
            step += 1
            seen += ids.numel()
            run.append(loss.detach())
            if a.save_every and time.time() - saved > a.save_every:  # a run that is cut off keeps its last state
                save_master(self.master, a.out)
                saved = time.time()
            if step % a.log_every == 0:
                value = torch.stack(run).mean().item()
                run = []
                rate = 0 if t0 is None else (seen - 12 * ids.numel()) / (time.time() - t0)
                log.append({"step": step, "loss": round(value, 4), "lr": round(a.lr * scale, 5), "tokens": seen, "tokens_per_s": round(rate), "nf4": quantised})
                print(json.dumps(log[-1]), flush=True)
        self.sync_work(True)
        return log

    def train_adapter(self, stream):
        a = self.args
        n, r = self.cfg.num_hidden_layers, a.rank
        self.sync_work(True)
        fixed = {k: self.work[k].detach().clone() for k in self.linears}
        lora = {}
        for k, (out, inp) in self.cfg.shapes().items():
            lora[k + ".a"] = ((torch.rand(n, r, inp, device=self.device) * 2 - 1) / math.sqrt(inp)).requires_grad_(True)
            lora[k + ".b"] = torch.zeros(n, out, r, device=self.device, requires_grad=True)
        if a.adapter:
            lora = {k: v.to(self.device).float().requires_grad_(True) for k, v in load_adapter(a.adapter, lora, n).items()}
        opt = torch.optim.AdamW(list(lora.values()), lr=a.lora_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=self.cuda)
        log, run, step, seen, t0 = [], [], 0, 0, None
        while True:
            if step == 5:
                t0 = time.time()
            progress = 0.0 if t0 is None else (time.time() - t0) / (a.minutes * 60)
            if progress >= 1 or (a.steps and step >= a.steps):
                break
            scale = min(1.0, (step + 1) / 50) * (1 - progress)
            opt.param_groups[0]["lr"] = a.lora_lr * scale
            work = dict(self.work)
            for k in self.linears:
                work[k] = (fixed[k], lora[k + ".a"].to(torch.bfloat16), (lora[k + ".b"] * (a.alpha / r)).to(torch.bfloat16))
            ids, *rest = self.batch(stream)
            loss = self.loss(work, ids, *rest)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
            step += 1
            seen += ids.numel()
            run.append(loss.detach())
            if step % a.log_every == 0:
                log.append({"step": step, "loss": round(torch.stack(run).mean().item(), 4), "tokens": seen})
                run = []
                print(json.dumps(log[-1]), flush=True)
        self.lora = {k: v.detach() for k, v in lora.items()}
        return log


def load_master(path: Path, device) -> dict[str, torch.Tensor]:
    if (path / "model.safetensors").exists():
        cfg, state = Config(), nf4.read_checkpoint(path)
        out = {k: torch.stack([state[f"model.layers.{i}.{k}.weight"] for i in range(cfg.num_hidden_layers)]) for k in [*cfg.shapes(), *cfg.norms()]}
        out |= {"embed": state["model.embed_tokens.weight"], "norm": state["model.norm.weight"]}
        return {k: v.to(device).float() for k, v in out.items()}
    out = {}
    for f in sorted(path.glob("master-*.safetensors")):
        out |= {k: v.to(device).float() for k, v in load_file(f).items()}
    return out


def save_master(master: dict, path: Path, dtype=torch.bfloat16) -> None:
    """In files of about 15 MiB; a stack too large for one file is impossible at this model's size."""
    part, size, i = {}, 0, 0
    for k, v in master.items():
        t = v.detach().to(dtype).cpu().contiguous()
        n = t.numel() * t.itemsize
        if part and size + n > 15.5 * 2**20:
            save_file(part, path / f"master-{i}.safetensors")
            part, size, i = {}, 0, i + 1
        part[k] = t
        size += n
    save_file(part, path / f"master-{i}.safetensors")


def save_adapter(lora: dict, path: Path, name: str, rank: int, alpha: float) -> None:
    """PEFT's layout: adapter_config.json and adapter_model.safetensors."""
    out = path / name
    out.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for k, v in lora.items():
        module, side = k.rsplit(".", 1)
        for i in range(v.shape[0]):
            tensors[f"base_model.model.model.layers.{i}.{module}.lora_{side.upper()}.weight"] = v[i].to(torch.bfloat16).cpu().contiguous()
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "lorikeet-embedded", "bias": "none", "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
              "layer_replication": None, "layers_pattern": None, "layers_to_transform": None, "loftq_config": {}, "lora_alpha": alpha, "lora_bias": False, "lora_dropout": 0.0, "megatron_config": None, "megatron_core": "megatron.core",
              "modules_to_save": None, "peft_type": "LORA", "r": rank, "rank_pattern": {}, "revision": None, "target_modules": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"], "task_type": "CAUSAL_LM",
              "trainable_token_indices": None, "use_dora": False, "use_rslora": False}
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_adapter(path: Path, like: dict, n_layers: int) -> dict:
    """What save_adapter wrote, stacked again."""
    raw = load_file(path / "adapter_model.safetensors")
    name = lambda k, i: f"base_model.model.model.layers.{i}.{k.rsplit('.', 1)[0]}.lora_{k[-1].upper()}.weight"
    return {k: torch.stack([raw[name(k, i)] for i in range(n_layers)]) for k in like}


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--init", help="directory to go on from: master-*.safetensors or an exported model.safetensors")
    p.add_argument("--adapter", type=Path, help="directory of an adapter to go on from")
    p.add_argument("--task", default="sql", choices=["sql", "sql-explain", "sql-postgres"])
    p.add_argument("--minutes", type=float, default=7)
    p.add_argument("--steps", type=int, default=0, help="stop after so many steps; 0: by time alone")
    p.add_argument("--rows", type=int, default=32, help="rows of --length tokens in a step")
    p.add_argument("--length", type=int, default=2048)
    p.add_argument("--workers", type=int, default=14)
    p.add_argument("--lr", type=float, default=0.01, help="of Muon")
    p.add_argument("--embed-lr", type=float, default=0.002)
    p.add_argument("--norm-lr", type=float, default=0.002)
    p.add_argument("--wd", type=float, default=0.05)
    p.add_argument("--warmup", type=int, default=100)
    p.add_argument("--decay", type=float, default=0.6, help="share of the time over which the rate falls to zero")
    p.add_argument("--nf4-from", type=float, default=0.5)
    p.add_argument("--rank", type=int, default=6)
    p.add_argument("--alpha", type=float, default=12)
    p.add_argument("--lora-lr", type=float, default=4e-3)
    p.add_argument("--save-every", type=float, default=120, help="seconds between saved states; 0: only at the end")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--log-every", type=int, default=100)
    p.add_argument("--device", default="cuda")
    return p.parse_args()


def main() -> None:
    args = arguments()
    stream = Stream(args.tokenizer, args.task, args.seed, args.length, args.rows, args.workers)
    args.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(args)
    if args.task == "sql":
        log = trainer.train_base(stream)
        save_master(trainer.master, args.out, torch.float32)
    else:
        log = trainer.train_adapter(stream)
        save_adapter(trainer.lora, args.out, args.task, args.rank, args.alpha)
    (args.out / f"log-{args.task}.json").write_text(json.dumps({"arguments": {k: str(v) for k, v in vars(args).items()}, "log": log}))
    stream.close()


if __name__ == "__main__":
    main()
