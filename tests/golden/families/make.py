"""Makes the folders beside it: pip install torch transformers safetensors, then python make.py. Takes seconds.

Each is a reward model of transformers with random weights in its own format, what PyTorch computes with it in float32
on the CPU, and the gradients under InternLM2's names, with the projections of attention fused as InternLM2 has them:

qwen3: norms of queries and keys, heads of 8 where hidden_size / num_attention_heads is 6, and its score normalised by
OpenRLHF's `mean` and `std`, which loss and gradients know nothing of.
llama3: Llama 3.1's scaling of the rotary frequencies with fast, slow and interpolated ones, heads of 8.

frequencies.json: the frequencies of published sizes with that scaling, as the bits of each float32.
"""

import json
import os
import pathlib

# As the C library computes powers: see tests/golden/rotary.
os.environ["ATEN_CPU_CAPABILITY"] = "default"
import torch
import transformers
from safetensors.torch import save_file
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

HERE = pathlib.Path(__file__).parent
VOCABULARY, HEADS, KV_HEADS, DIM = 41, 4, 2, 8
SIZES = dict(
    vocab_size=VOCABULARY, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS, head_dim=DIM, max_position_embeddings=256, rms_norm_eps=1e-5, num_labels=1,
    bos_token_id=1, eos_token_id=2, pad_token_id=2,
)  # fmt: skip
NORMALISATION = dict(normalize_reward=True, mean=0.25, std=1.75)
OPTIMIZER = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)


def llama3(factor, original, **more):
    return dict(
        rope_type="llama3", factor=factor, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=original, **more,
    )  # fmt: skip


def own_names(tensors):
    """InternLM2's names; for each key/value head its queries, then the key, then the value."""
    names = {
        "model.embed_tokens.weight": "model.tok_embeddings.weight",
        "model.norm.weight": "model.norm.weight",
        "score.weight": "v_head.weight",
    }
    parts = {
        "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attention.wo",
        "self_attn.q_norm": "attention.q_norm", "self_attn.k_norm": "attention.k_norm",
        "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2",
    }  # fmt: skip
    out = {}
    for i in range(SIZES["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        names |= {layer + theirs + ".weight": layer + ours + ".weight" for theirs, ours in parts.items()}
        q, k, v = (tensors[layer + f"self_attn.{which}_proj.weight"] for which in "qkv")
        groups = [q.view(KV_HEADS, -1, q.shape[1]), k.view(KV_HEADS, DIM, -1), v.view(KV_HEADS, DIM, -1)]
        out[layer + "attention.wqkv.weight"] = torch.cat(groups, 1).reshape(-1, q.shape[1])
    return out | {ours: tensors[theirs] for theirs, ours in names.items() if theirs in tensors}


def pairs(generator):
    """Pairs with a common beginning; some long enough for slow frequencies to matter."""
    draw = lambda n: torch.randint(3, VOCABULARY, (n,), generator=generator).tolist()
    rows = []
    for beginning, chosen, rejected in ((5, 3, 6), (1, 9, 2), (60, 12, 20), (17, 1, 4)):
        common = draw(beginning)
        rows.append(dict(chosen=common + draw(chosen), rejected=common + draw(rejected)))
    return rows


def score(model, ids):
    """Of the last token, whatever it is: transformers looks for the last that is no padding."""
    hidden = model.model(torch.tensor([ids])).last_hidden_state
    return model.score(hidden)[0, -1, 0]


def make(name, config_class, model_class, normalisation, **more):
    generator = torch.Generator().manual_seed(len(name))
    model = model_class(config_class(**SIZES, **more)).float().eval()
    with torch.no_grad():
        for tensor, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(draw * 0.2 + 1 if "norm" in tensor else draw * 0.35)
    folder = HERE / name
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | normalisation, indent=1) + "\n")

    rows = pairs(generator)
    def loss():
        differences = [score(model, row["chosen"]) - score(model, row["rejected"]) for row in rows]
        return -torch.nn.functional.logsigmoid(torch.stack(differences)).mean()

    def step():
        model.zero_grad()
        value = loss()
        value.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        return dict(loss=value.item(), grad_norm=norm.item())

    first = step()
    scores = [{side: score(model, row[side]).item() for side in row} for row in rows]
    gradients = {tensor: p.grad.clone() for tensor, p in model.named_parameters()}
    own = {tensor: value.contiguous() for tensor, value in own_names(gradients).items()}
    save_file(own, folder / "grads.safetensors")
    optimizer, training = torch.optim.AdamW(model.parameters(), **OPTIMIZER), []
    for _ in range(10):
        training.append(step())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    golden = dict(
        about=f"PyTorch {torch.__version__}, transformers {transformers.__version__}, float32 on the CPU", pairs=rows,
        scores=scores, **first, optimizer=OPTIMIZER | dict(clip_grad_norm=1.0), training=training,
    )  # fmt: skip
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    print(name, first, scores[:2], training[-1])


make(
    "qwen3", transformers.Qwen3Config, transformers.Qwen3ForSequenceClassification, NORMALISATION,
    rope_parameters=dict(rope_type="default", rope_theta=1e4),
)  # fmt: skip
make(
    "llama3", transformers.LlamaConfig, transformers.LlamaForSequenceClassification, {},
    rope_parameters=llama3(4.0, 64, rope_theta=100.0),
)  # fmt: skip

tables = []
for dim in (64, 128):
    for factor, original in ((8.0, 8192), (32.0, 8192), (3.0, 4000)):
        config = transformers.LlamaConfig(
            **SIZES | dict(head_dim=dim), rope_parameters=llama3(factor, original, rope_theta=5e5)
        )
        values, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        bits = values.float().view(torch.int32).tolist()
        tables.append(json.dumps(dict(dim=dim, theta=5e5, factor=factor, original=original, bits=bits)))
(HERE / "frequencies.json").write_text("[\n" + ",\n".join(tables) + "\n]\n")
