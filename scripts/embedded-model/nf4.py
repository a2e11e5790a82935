"""NF4 with double quantisation, as bitsandbytes stores it: codes, nested scales, and the values they stand for."""

from __future__ import annotations

import json
from pathlib import Path

import torch

CODE = torch.tensor([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
                     0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0])
BLOCK, NESTED = 64, 256


def dynamic_map() -> torch.Tensor:
    """bitsandbytes' create_dynamic_map(signed=True, max_exponent_bits=7, total_bits=8): [256] fp32, sorted."""
    data = []
    for i in range(7):
        bounds = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float32)
        means = (bounds[:-1] + bounds[1:]) / 2.0
        data += (10.0 ** (i - 6) * means).tolist() + (-(10.0 ** (i - 6)) * means).tolist()
    return torch.tensor(sorted([*data, 0.0, 1.0]), dtype=torch.float32)


def quantise(w: torch.Tensor, code: torch.Tensor, nested: torch.Tensor) -> dict[str, torch.Tensor]:
    """w [n, out, in] fp32 -> codes [n, blocks, 64], q8 [n, blocks], nested_absmax [n, groups], offset [n], values [n, out, in] bf16."""
    n = w.shape[0]
    blocks = w.reshape(n, -1, BLOCK)
    absmax = blocks.abs().amax(-1)
    thresholds = (code[1:] + code[:-1]) / 2
    codes = torch.bucketize(blocks / absmax.clamp_min(1e-12).unsqueeze(-1), thresholds)
    offset = absmax.mean(-1)
    centred = absmax - offset[:, None]
    pad = -centred.shape[1] % NESTED
    groups = torch.nn.functional.pad(centred, (0, pad)).reshape(n, -1, NESTED)
    nested_absmax = groups.abs().amax(-1)
    q8 = torch.bucketize(groups / nested_absmax.clamp_min(1e-20).unsqueeze(-1), (nested[1:] + nested[:-1]) / 2)
    scale = (nested[q8] * nested_absmax.unsqueeze(-1)).reshape(n, -1)[:, : absmax.shape[1]] + offset[:, None]
    values = (code[codes] * scale.unsqueeze(-1)).reshape(w.shape).to(torch.bfloat16)
    return {"codes": codes, "q8": q8.reshape(n, -1)[:, : absmax.shape[1]], "nested_absmax": nested_absmax, "offset": offset, "values": values}


def checkpoint_tensors(name: str, w: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The tensors of one Linear `name` (its weight w [out, in]) in bitsandbytes' layout, and the bf16 values they stand for."""
    nested = dynamic_map()
    q = quantise(w.float()[None], CODE, nested)
    codes = q["codes"].reshape(-1, 2).to(torch.uint8)
    state = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": "bfloat16", "shape": list(w.shape), "nested_blocksize": NESTED, "nested_dtype": "float32", "nested_offset": q["offset"].item()}
    return {
        f"{name}.weight": (codes[:, :1] << 4 | codes[:, 1:]).contiguous(),
        f"{name}.weight.absmax": q["q8"][0].to(torch.uint8).contiguous(),
        f"{name}.weight.quant_map": CODE.clone(),
        f"{name}.weight.nested_absmax": q["nested_absmax"][0].contiguous(),
        f"{name}.weight.nested_quant_map": nested,
        f"{name}.weight.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }, q["values"][0]


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a bitsandbytes NF4 checkpoint, its linears dequantised to the bf16 values they stand for."""
    from safetensors.torch import load_file
    raw = load_file(path / "model.safetensors")
    state = {}
    for k, v in raw.items():
        if not k.endswith(".weight"):
            continue
        if k + ".quant_state.bitsandbytes__nf4" not in raw:
            state[k] = v
            continue
        q = json.loads(bytes(raw[k + ".quant_state.bitsandbytes__nf4"].tolist()))
        q8 = raw[k + ".absmax"]
        absmax = raw[k + ".nested_quant_map"][q8.long()] * raw[k + ".nested_absmax"].repeat_interleave(q["nested_blocksize"])[: q8.numel()] + q["nested_offset"]
        codes = torch.cat([v >> 4, v & 15], 1).flatten().long()
        state[k] = (raw[k + ".quant_map"][codes].view(-1, q["blocksize"]) * absmax[:, None]).view(q["shape"]).to(torch.bfloat16)
    return state
