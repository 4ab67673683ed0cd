# requires: torch transformers>=5 peft safetensors
"""Adapters that polar-raw trains, in PEFT: the same base and adapter, scores, losses, gradient norms and what is trained.

A small reward model is trained, saved as transformers' Llama, and adapted on pairs of token ids by the program, once with
a learning rate too small to move anything, which leaves the adapter as it begins, and once for a few steps. PEFT loads
the base and the first adapter, and trains it on the same pairs with PyTorch's AdamW. Compared are loss and gradient norm of
each step, relative; each element of factors and head after the last; and the scores of the trained adapter in PEFT and of
the model that polar-raw merged it into. The gradients themselves, tensor by tensor, are in tests/golden/lora.
"""

import argparse
import json
import math
import pathlib
import random
import subprocess
import sys
import tempfile

import peft
import torch
import transformers
from safetensors.torch import load_file

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
# Threads that wait for one another are slow on cores that are shared, and small products need none.
torch.set_num_threads(1)

STEPS, LR, NOTHING = 6, 3e-4, 1e-30
# The score token of the tokenizer of single bytes, with which every sequence ends.
SCORE = 4
BETAS, EPS, DECAY, CLIP = (0.9, 0.95), 1e-8, 0.1, 1.0
TOLERANCE = 1e-5


def program(given, *arguments):
    done = subprocess.run([given.program, *map(str, arguments)], capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}: {done.stderr.decode()}")


def train(given, folder, run, settings, *arguments):
    settings = {"tokenizer.kind": "bytes", "train.batch_size": 4} | settings
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    program(given, "train", "--device", "cpu", "--preset", "files", "--run", folder / run, *arguments, *sets)
    return folder / run


def pairs(rows):
    """Pairs with a common beginning, of printable bytes."""
    rng = random.Random(1)
    draw = lambda n: [rng.randrange(32, 127) for _ in range(n)]
    made = []
    for _ in range(rows):
        common = draw(rng.randrange(1, 20))
        made.append({side: common + draw(rng.randrange(1, 12)) + [SCORE] for side in ("chosen_ids", "rejected_ids")})
    return made


def score(model, ids):
    """Of the last token, whatever it is: transformers looks for the last that is no padding."""
    inner = model.base_model.model
    return inner.score(inner.model(torch.tensor([ids])).last_hidden_state)[0, -1, 0]


def load(base, run, trainable):
    model = transformers.LlamaForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(model, run / "adapter", is_trainable=trainable)


def merged_scores(given, folder, run, rows):
    """What the merged model gives, by way of transformers, since it reads ids."""
    program(given, "convert", "--from", run / "model", "--to", run / "llama", "--as", "llama")
    model = transformers.LlamaForSequenceClassification.from_pretrained(run / "llama", dtype=torch.float32)
    with torch.no_grad():
        ids = [row[side] for row in rows for side in ("chosen_ids", "rejected_ids")]
        return [model.score(model.model(torch.tensor([one])).last_hidden_state)[0, -1, 0].item() for one in ids]


def own_file(model):
    return {name: value.detach() for name, value in peft.get_peft_model_state_dict(model).items()}


def apart(ours, theirs):
    """Of tensors by name: the largest difference of an element. A relative one would measure roundings: AdamW makes of a
    gradient near zero a step as long as of any other, and B has come only so far from where it began."""
    if ours.keys() != theirs.keys():
        sys.exit(f"other tensors: {sorted(ours.keys() ^ theirs.keys())}")
    return max((ours[name] - theirs[name]).abs().max().item() for name in theirs)


def check(given, folder, name, init, settings):
    """The largest difference of one case over what it may be."""
    rows = pairs(16)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not (folder / "base").exists():
        sizes = {f"model.{key}": value for key, value in SIZES.items()} | {"train.steps": 20, "model.initializer_range": 0.2}
        made = train(given, folder, "start", sizes, "--data", folder / "pairs.jsonl")
        program(given, "convert", "--from", made / "model", "--to", folder / "base", "--as", "llama")
    settings = settings | {
        "train.steps": STEPS, "schedule.kind": "constant", "schedule.warmup_ratio": 0, "optimizer.weight_decay": DECAY,
        "optimizer.betas": list(BETAS), "optimizer.eps": EPS, "optimizer.clip_grad_norm": CLIP, "train.batch_size": len(rows),
    }  # fmt: skip
    common = ("--init", folder / init, "--data", folder / "pairs.jsonl", "--eval-data", folder / "pairs.jsonl")
    still = train(given, folder, f"{name}-still", settings | {"optimizer.lr": NOTHING, "optimizer.weight_decay": 0}, *common)
    run = train(given, folder, f"{name}-run", settings | {"optimizer.lr": LR}, *common)
    base = folder / "base"
    if init != "base":
        base = folder / f"{name}-base"
        program(given, "convert", "--from", run / "start", "--to", base, "--as", "llama")
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

    model = load(base, still, True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    found = {}
    for step in steps:
        optimizer.zero_grad()
        differences = [score(model, row["chosen_ids"]) - score(model, row["rejected_ids"]) for row in rows]
        loss = -torch.nn.functional.logsigmoid(torch.stack(differences)).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, CLIP).item()
        optimizer.step()
        found["losses"] = max(found.get("losses", 0), abs(step["loss"] / loss.item() - 1))
        found["gradient norms"] = max(found.get("gradient norms", 0), abs(step["grad_norm"] / norm - 1))
    found["trained"] = apart(load_file(run / "adapter" / "adapter_model.safetensors"), own_file(model))
    own = load(base, run, False)
    with torch.no_grad():
        theirs = [score(own, row[side]).item() for row in rows for side in ("chosen_ids", "rejected_ids")]
    found["scores"] = max(abs(a - b) for a, b in zip(merged_scores(given, folder, run, rows), theirs))
    if not all(math.isfinite(value) for value in found.values()) or len(steps) != STEPS:
        sys.exit(f"{name}: {found}, {len(steps)} steps")
    print(f"{name:10}", ", ".join(f"{what} {value:.1e} apart" for what, value in found.items()), flush=True)
    return max(found.values()) / TOLERANCE


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--program", default="target/release/polar-raw")
    given = arguments.parse_args()
    given.program = pathlib.Path(given.program).resolve()
    print(f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    cases = {
        "all": ("base", {"train.lora.rank": 8}),
        "q and v": ("base", {"train.lora.rank": 4, "train.lora.alpha": 6, "train.lora.targets": "['q_proj', 'v_proj']"}),
        # Of a model whose projections are fused; the base for PEFT is what the run began with, converted.
        "InternLM2": ("start/model", {"train.lora.rank": 8}),
    }
    with tempfile.TemporaryDirectory() as temporary:
        worst = max(check(given, pathlib.Path(temporary), name, *case) for name, case in cases.items())
    print("all within 1e-5" if worst <= 1 else "too far apart")
    sys.exit(worst > 1)


if __name__ == "__main__":
    main()
