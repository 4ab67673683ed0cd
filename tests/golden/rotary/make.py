"""Makes frequencies.json and scores.json in this folder: pip install torch==2.5.1 transformers==4.48.3 numpy, then
python make.py. Takes a minute and 4 GB.

frequencies.json: rotary frequencies as the published models' code computes them, `1 / base ** (arange(0, d, 2) / d)` in
float32 (InternLM2's, Llama's and Qwen2's modelling code), as the bits of each float32. PyTorch's power is the C
library's without vector instructions (`bits`) and SLEEF's with them; `avx2` and `avx512` list the places where that
gives other bits, and which.

scores.json: scores of a random reward model with two query heads of 128, in float32 and in float64, for sequences of
up to 8,705 tokens. In both the rotary angles are those of the published float32 code, since their rounding is part of
the model; in float64 all else is exact. Weights and token ids come from `noise`, which tests/rotary.rs has as well, so
that no file of weights is needed. The float32 scores are checked against transformers' Llama with the same weights.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy
import torch

HERE = pathlib.Path(__file__).parent
MASK = (1 << 64) - 1

# The 2 query heads share one key/value head.
CONFIG = dict(
    vocab_size=256, hidden_size=256, intermediate_size=192, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, rope_theta=1e6, rms_norm_eps=1e-5, max_position_embeddings=16384,
)  # fmt: skip
LENGTHS = [1, 8, 129, 300, 1024, 4097, 8193, 8705]


def noise(name, count):
    """`count` 64-bit numbers: SplitMix64 from the FNV-1a hash of the name (Steele, Lea and Flood 2014)."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 & MASK
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(state) + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        return z ^ (z >> numpy.uint64(31))


def weight(name, *shape, spread, middle=0.0):
    """Exact in float32: 24 random bits as a number in [-1, 1), times a power of two, around 0 or 1."""
    signed = (noise(name, numpy.prod(shape)) >> numpy.uint64(40)).astype(numpy.int64) - (1 << 23)
    values = (signed.astype(numpy.float32) * numpy.float32(2.0**-23)) * numpy.float32(spread) + numpy.float32(middle)
    return torch.from_numpy(values.astype(numpy.float32).reshape(shape))


def weights():
    c = CONFIG
    hidden, ffn, head = c["hidden_size"], c["intermediate_size"], c["hidden_size"] // c["num_attention_heads"]
    rows = (c["num_attention_heads"] + 2 * c["num_key_value_heads"]) * head
    shapes = {"model.tok_embeddings.weight": (c["vocab_size"], hidden)}
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        shapes[layer + "attention_norm.weight"] = (hidden,)
        shapes[layer + "attention.wqkv.weight"] = (rows, hidden)
        shapes[layer + "attention.wo.weight"] = (hidden, hidden)
        shapes[layer + "ffn_norm.weight"] = (hidden,)
        shapes[layer + "feed_forward.w1.weight"] = (ffn, hidden)
        shapes[layer + "feed_forward.w3.weight"] = (ffn, hidden)
        shapes[layer + "feed_forward.w2.weight"] = (hidden, ffn)
    shapes["model.norm.weight"] = (hidden,)
    shapes["v_head.weight"] = (1, hidden)

    def draw(name, shape):
        if "norm" in name:
            return weight(name, *shape, spread=0.25, middle=1.0)
        # Wide enough for attention to choose: where it averages over thousands of tokens, no angle matters.
        spread = 1.0 if "tok_embeddings" in name else 0.25 if "wqkv" in name else 0.125
        return weight(name, *shape, spread=spread)

    return {name: draw(name, shape) for name, shape in shapes.items()}


def ids(length):
    return torch.from_numpy((noise(f"ids {length}", length) % numpy.uint64(CONFIG["vocab_size"])).astype(numpy.int64))


def frequencies(dim, base):
    return 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim))


def score(w, ids, dtype):
    """The score at the last token."""
    c = CONFIG
    heads, dim = c["num_attention_heads"], c["hidden_size"] // c["num_attention_heads"]
    angles = torch.arange(len(ids)).float()[:, None] * frequencies(dim, c["rope_theta"])[None, :]
    angles = torch.cat((angles, angles), -1).to(dtype)
    cos, sin = angles.cos(), angles.sin()

    def norm(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + c["rms_norm_eps"]) * weight

    def turn(x):
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    w = {name: value.to(dtype) for name, value in w.items()}
    x = w["model.tok_embeddings.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        layer = {name.split(f"layers.{i}.")[1]: value for name, value in w.items() if f"layers.{i}." in name}
        fused = norm(x, layer["attention_norm.weight"]) @ layer["attention.wqkv.weight"].T
        *queries, key, value = fused.split(dim, -1)
        key, out = turn(key), []
        for query in queries:
            query, rows = turn(query), []
            # Queries in blocks, so that 8,705 by 8,705 weights in float64 are never together in memory.
            for start in range(0, len(ids), 512):
                end = min(start + 512, len(ids))
                logits = query[start:end] @ key[:end].T / dim**0.5
                hidden = torch.arange(end)[None, :] > torch.arange(start, end)[:, None]
                rows.append(logits.masked_fill(hidden, -torch.inf).softmax(-1) @ value[:end])
            out.append(torch.cat(rows))
        x = x + torch.cat(out, -1) @ layer["attention.wo.weight"].T
        y = norm(x, layer["ffn_norm.weight"])
        gate = torch.nn.functional.silu(y @ layer["feed_forward.w1.weight"].T)
        x = x + (gate * (y @ layer["feed_forward.w3.weight"].T)) @ layer["feed_forward.w2.weight"].T
    return float(norm(x[-1], w["model.norm.weight"]) @ w["v_head.weight"][0])


def llama(w):
    """The same model as transformers' Llama, whose projections are apart."""
    import transformers

    c = CONFIG
    head = c["hidden_size"] // c["num_attention_heads"]
    config = transformers.LlamaConfig(**c, num_labels=1, pad_token_id=None, attn_implementation="sdpa")
    model = transformers.LlamaForSequenceClassification(config).eval()
    state = {
        "model.embed_tokens.weight": w["model.tok_embeddings.weight"],
        "model.norm.weight": w["model.norm.weight"],
        "score.weight": w["v_head.weight"],
    }
    for i in range(c["num_hidden_layers"]):
        ours, theirs = f"model.layers.{i}.", f"model.layers.{i}."
        wqkv = w[ours + "attention.wqkv.weight"]
        state[theirs + "self_attn.q_proj.weight"] = wqkv[: -2 * head]
        state[theirs + "self_attn.k_proj.weight"] = wqkv[-2 * head : -head]
        state[theirs + "self_attn.v_proj.weight"] = wqkv[-head:]
        state[theirs + "self_attn.o_proj.weight"] = w[ours + "attention.wo.weight"]
        state[theirs + "input_layernorm.weight"] = w[ours + "attention_norm.weight"]
        state[theirs + "post_attention_layernorm.weight"] = w[ours + "ffn_norm.weight"]
        for a, b in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
            state[theirs + f"mlp.{b}_proj.weight"] = w[ours + f"feed_forward.{a}.weight"]
    model.load_state_dict(state)
    return lambda ids: float(model(ids[None]).logits[0, 0])


def tables():
    bases = [1e4, 1e5, 130000.3, 5e5, 1e6, 1e7, 5e7]
    bits = lambda dim, base: frequencies(dim, base).view(torch.int32).tolist()
    return [dict(dim=dim, theta=base, bits=bits(dim, base)) for dim in (32, 64, 80, 96, 128, 256) for base in bases]


def lines(items):
    return "[\n" + ",\n".join(json.dumps(item, separators=(",", ":")) for item in items) + "\n]"


if sys.argv[1:] == ["tables"]:
    print(json.dumps(tables()))
    sys.exit()

capabilities = {}
for capability in ("default", "avx2", "avx512"):
    environment = dict(os.environ, ATEN_CPU_CAPABILITY=capability)
    command = [sys.executable, __file__, "tables"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    capabilities[capability] = json.loads(done.stdout)
merged = []
for scalar, avx2, avx512 in zip(*capabilities.values()):
    others = {"avx2": avx2["bits"], "avx512": avx512["bits"]}
    changes = {
        name: [[i, b] for i, (a, b) in enumerate(zip(scalar["bits"], bits)) if a != b] for name, bits in others.items()
    }
    merged.append(scalar | changes)
(HERE / "frequencies.json").write_text(lines(merged) + "\n")

w = weights()
with torch.inference_mode():
    other, rows = llama(w), []
    for length in LENGTHS:
        sequence = ids(length)
        f32, f64, theirs = score(w, sequence, torch.float32), score(w, sequence, torch.float64), other(sequence)
        print(f"{length:5} tokens: {f64:.9f}, float32 off by {f32 - f64:.1e}, transformers by {theirs - f64:.1e}")
        assert abs(theirs - f64) < 1e-5 + 1e-5 * abs(f64), "transformers computes something else"
        rows.append(dict(length=length, f32=theirs, f64=f64))
text = f'{{"config": {json.dumps(CONFIG)}, "scores": {lines(rows)}}}'
(HERE / "scores.json").write_text(text + "\n")
