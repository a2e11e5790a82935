"""QLoRA's counterpart in transformers and PEFT on the CPU: the 270M shape in bf16, LoRA r=16 on every linear, one row a step.

usage: hf_train.py TOKENS STEPS
"""
import resource
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

SHAPE = dict(vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4, num_key_value_heads=1,
             head_dim=256, max_position_embeddings=32768, sliding_window=512, query_pre_attn_scalar=256, tie_word_embeddings=True)


def main(n_tokens: int, n_steps: int) -> None:
    torch.manual_seed(0)
    model = Gemma3ForCausalLM._from_config(Gemma3TextConfig(**SHAPE), attn_implementation="sdpa", dtype=torch.bfloat16)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    model.config.use_cache = False
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, fused=True)
    seconds = []
    for _ in range(n_steps):
        ids = torch.randint(5, 262000, (1, n_tokens))
        began = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.3)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    counted = seconds[1:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"transformers + PEFT, {torch.get_num_threads()} threads, 100 % supervised: best {n_tokens / min(counted):.0f}, "
          f"mean {n_tokens * len(counted) / sum(counted):.0f} tok/s, peak resident {peak:.2f} GiB", flush=True)


main(int(sys.argv[1]), int(sys.argv[2]))
