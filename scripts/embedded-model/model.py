"""Gemma 3's text model in plain PyTorch, written for training: packed rows, stacked weights, fp32 masters with bf16 working copies.

The working copies may be NF4 values (straight-through gradients) and may carry LoRA; the forward pass does not know.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F


@dataclass
class Config:
    vocab_size: int = 8192
    hidden_size: int = 448
    intermediate_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    head_dim: int = 64
    sliding_window: int = 512
    pattern: int = 6
    max_position_embeddings: int = 2048
    rope_theta: float = 1e6
    rope_local_base_freq: float = 1e4

    def is_global(self, layer: int) -> bool:
        return (layer + 1) % self.pattern == 0

    def shapes(self) -> dict[str, tuple[int, int]]:
        h, q, kv, m = self.hidden_size, self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim, self.intermediate_size
        return {"self_attn.q_proj": (q, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h), "self_attn.o_proj": (h, q), "mlp.gate_proj": (m, h), "mlp.up_proj": (m, h), "mlp.down_proj": (h, m)}

    def norms(self) -> dict[str, int]:
        h = self.hidden_size
        return {"input_layernorm": h, "post_attention_layernorm": h, "pre_feedforward_layernorm": h, "post_feedforward_layernorm": h, "self_attn.q_norm": self.head_dim, "self_attn.k_norm": self.head_dim}

    def hf(self) -> dict:
        """config.json of the unquantised model, in the spelling of published checkpoints and that of transformers 5."""
        own = asdict(self)
        own.pop("pattern")
        return {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": None, "final_logit_softcapping": None, "bos_token_id": 2,
                "eos_token_id": [1, 106], "pad_token_id": 0, "hidden_activation": "gelu_pytorch_tanh", "initializer_range": 0.02, "query_pre_attn_scalar": self.head_dim, "rms_norm_eps": 1e-6, "rope_scaling": None,
                "sliding_window_pattern": self.pattern, "layer_types": ["full_attention" if self.is_global(i) else "sliding_attention" for i in range(self.num_hidden_layers)], "tie_word_embeddings": True,
                "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": self.rope_theta}, "sliding_attention": {"rope_type": "default", "rope_theta": self.rope_local_base_freq}},
                "torch_dtype": "bfloat16", "dtype": "bfloat16", "use_cache": True, "use_bidirectional_attention": False, **own}


def init_weights(cfg: Config, device) -> dict[str, torch.Tensor]:
    """fp32 masters: linears stacked [n_layers, out, in], norms [n_layers, n], embed [vocab, hidden], norm [hidden]."""
    n = cfg.num_hidden_layers
    w = {k: torch.randn(n, *s, device=device) * (0.6 / math.sqrt(s[1])) for k, s in cfg.shapes().items()}
    for k, size in cfg.norms().items():
        w[k] = torch.full((n, size), -0.6 if k.startswith("post") else 0.0, device=device)
    w["embed"] = torch.randn(cfg.vocab_size, cfg.hidden_size, device=device) / math.sqrt(cfg.hidden_size)
    w["norm"] = torch.zeros(cfg.hidden_size, device=device)
    return w


def rms_norm(x, w):
    # x[..., n] * rsqrt(mean(x^2) + eps) * (1 + w), in fp32
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6) * (1.0 + w.float())).to(x.dtype)


def rope(x, cos, sin):
    # x [B, H, T, D]; cos, sin [B, 1, T, D/2]
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def project(x, w):
    # w [out, in], or (w, a [r, in], b [out, r]): with a LoRA, its scale in b
    if isinstance(w, tuple):
        return F.linear(x, w[0]) + F.linear(F.linear(x, w[1]), w[2])
    return F.linear(x, w)


def layer(x, cos, sin, attend, mask, cfg: Config, n_in, n_post, n_pre, n_ff, n_q, n_k, wq, wk, wv, wo, wg, wu, wd):
    B, T, _ = x.shape
    h = rms_norm(x, n_in)
    q = project(h, wq).view(B, T, -1, cfg.head_dim).transpose(1, 2)
    k = project(h, wk).view(B, T, -1, cfg.head_dim).transpose(1, 2)
    v = project(h, wv).view(B, T, -1, cfg.head_dim).transpose(1, 2)
    q, k = rope(rms_norm(q, n_q), cos, sin), rope(rms_norm(k, n_k), cos, sin)
    a = attend(q, k, v, mask).transpose(1, 2).reshape(B, T, -1)
    x = x + rms_norm(project(a, wo), n_post)
    h = rms_norm(x, n_pre)
    h = project(F.gelu(project(h, wg), approximate="tanh") * project(h, wu), wd)
    return x + rms_norm(h, n_ff)


def head_loss(x, norm, embed, targets, weights):
    # x [n, hidden]; targets, weights [n]
    logits = F.linear(rms_norm(x, norm), embed).float()
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()


class Rotary:
    def __init__(self, cfg: Config, device):
        def table(theta):
            inv = 1.0 / theta ** (torch.arange(0, cfg.head_dim, 2, device=device).float() / cfg.head_dim)
            angle = torch.arange(cfg.max_position_embeddings, device=device).float()[:, None] * inv
            return angle.cos().bfloat16(), angle.sin().bfloat16()
        self.full, self.local = table(cfg.rope_theta), table(cfg.rope_local_base_freq)

    def at(self, positions, is_global: bool):
        cos, sin = self.full if is_global else self.local
        return cos[positions][:, None], sin[positions][:, None]


def sees(gq, gk):
    """Whether a token of group gq (document * 32 + branch) may look at one of group gk: of the same document, its common beginning or the same branch."""
    return (gq >> 5 == gk >> 5) & ((gk & 31 == 0) | (gq == gk))


def flex_masks(cfg: Config, groups: torch.Tensor, positions: torch.Tensor, make) -> tuple:
    """(global, sliding) block masks of packed rows; `make` is the compiled create_block_mask."""
    def full(b, h, q, k):
        return (q >= k) & sees(groups[b, q], groups[b, k])

    def sliding(b, h, q, k):
        return (q >= k) & sees(groups[b, q], groups[b, k]) & (positions[b, q] - positions[b, k] < cfg.sliding_window)
    B, T = groups.shape
    return make(full, B, None, T, T, device=groups.device), make(sliding, B, None, T, T, device=groups.device)


def dense_masks(cfg: Config, groups: torch.Tensor, positions: torch.Tensor) -> tuple:
    i = torch.arange(groups.shape[1], device=groups.device)
    full = (i[:, None] >= i) & sees(groups[:, :, None], groups[:, None, :])
    return full[:, None], (full & (positions[:, :, None] - positions[:, None, :] < cfg.sliding_window))[:, None]


def attend_dense(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def forward_hidden(cfg: Config, w: dict, rotary: Rotary, ids, positions, masks, attend, run_layer):
    scale = torch.tensor(math.sqrt(cfg.hidden_size), dtype=torch.bfloat16, device=ids.device)
    x = F.embedding(ids, w["embed"]) * scale.to(w["embed"].dtype)
    ropes = {g: rotary.at(positions, g) for g in (True, False)}
    per_layer = [list(zip(*(t.unbind(0) for t in w[k]))) if isinstance(w[k], tuple) else w[k].unbind(0) for k in [*cfg.norms(), *cfg.shapes()]]
    for i in range(cfg.num_hidden_layers):
        g = cfg.is_global(i)
        cos, sin = (t.to(x.dtype) for t in ropes[g])
        x = run_layer(x, cos, sin, attend, masks[0] if g else masks[1], cfg, *(p[i] for p in per_layer))
    return x
