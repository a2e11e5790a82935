"""Writes the trained model as a bitsandbytes NF4 checkpoint with its tokenizer and configuration.

usage: export.py --master DIR --tokenizer FILE --template FILE --out DIR
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import nf4
from model import Config
from train import load_master

QUANTISATION = {"_load_in_4bit": True, "_load_in_8bit": False, "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "llm_int8_enable_fp32_cpu_offload": False,
                "llm_int8_has_fp16_weight": False, "llm_int8_skip_modules": None, "llm_int8_threshold": 6.0, "load_in_4bit": True, "load_in_8bit": False, "quant_method": "bitsandbytes"}


def tensors(cfg: Config, master: dict) -> tuple[dict, dict]:
    """(checkpoint with NF4 linears, the same with plain bf16 values)."""
    packed = {"model.embed_tokens.weight": master["embed"].to(torch.bfloat16), "model.norm.weight": master["norm"].to(torch.bfloat16)}
    for k in cfg.norms():
        for i, w in enumerate(master[k]):
            packed[f"model.layers.{i}.{k}.weight"] = w.to(torch.bfloat16).contiguous()
    plain = dict(packed)
    for k in cfg.shapes():
        for i, w in enumerate(master[k]):
            name = f"model.layers.{i}.{k}"
            parts, values = nf4.checkpoint_tensors(name, w)
            packed |= parts
            plain[f"{name}.weight"] = values
    return packed, plain


# Only PostgreSQL uses these, so the base never meets them and training pushes their rows, with all that it never meets, onto one direction,
# where no adapter can tell them apart. Each gets a direction of its own, near that of a token which it is like.
UNMET = {"\u2581ILIKE": ("\u2581LIKE", 0.6), "YYYY": ("YEAR", 0.3), "XTRACT": ("YEAR", 0.3)}


def part_unmet(embed: torch.Tensor, tokenizer: Tokenizer) -> None:
    unit = torch.nn.functional.normalize(embed.float(), dim=1)
    generator = torch.Generator().manual_seed(6)
    for token, (like, share) in UNMET.items():
        own = torch.nn.functional.normalize(torch.randn(embed.shape[1], generator=generator), dim=0)
        row = torch.nn.functional.normalize(share * unit[tokenizer.token_to_id(like)] + own, dim=0)
        embed[tokenizer.token_to_id(token)] = 3.3 * row  # the usual length of a row


def write_model(cfg: Config, packed: dict, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save_file(packed, out / "model.safetensors", metadata={"format": "pt"})
    config = cfg.hf() | {"quantization_config": QUANTISATION}
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    generation = {"bos_token_id": 2, "do_sample": False, "eos_token_id": [1, 106], "pad_token_id": 0}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def write_tokenizer(tokenizer: Path, template: Path, out: Path) -> None:
    if tokenizer.resolve() != (out / "tokenizer.json").resolve():
        shutil.copy(tokenizer, out / "tokenizer.json")
    text = template.read_text()
    if template.resolve() != (out / "chat_template.jinja").resolve():
        (out / "chat_template.jinja").write_text(text)
    token = lambda s: {"content": s, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    special = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 105: "<start_of_turn>", 106: "<end_of_turn>"}
    config = {"add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": {str(i): token(s) for i, s in special.items()}, "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
              "chat_template": text, "clean_up_tokenization_spaces": False, "model_max_length": 2048, "padding_side": "left", "tokenizer_class": "PreTrainedTokenizerFast"}
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--master", type=Path, required=True)
    p.add_argument("--tokenizer", type=Path, required=True)
    p.add_argument("--template", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args()
    cfg = Config()
    master = load_master(args.master, "cpu")
    part_unmet(master["embed"], Tokenizer.from_file(str(args.tokenizer)))
    packed, _ = tensors(cfg, master)
    write_model(cfg, packed, args.out)
    write_tokenizer(args.tokenizer, args.template, args.out)


if __name__ == "__main__":
    main()
