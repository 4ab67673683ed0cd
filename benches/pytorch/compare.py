"""polar-raw's training step beside PyTorch's: the two in turn, several rounds, medians and ratios.

    pip install torch transformers tokenizers
    cargo build --release && python benches/pytorch/compare.py [--rounds 5] [--preferences FILE]

Three sizes of model on random sequences of 512 tokens, 4 pairs a step, nothing shared. With --preferences (rows
{prompt, reference, chosen, rejected}; needs the package tokenizers) also the 4M model on those pairs, where polar-raw
shares prefixes. Writes Markdown to standard output. Nothing else should run on the machine.

--quick shows in seconds that both halves run: one round of one step of a toy model on short sequences, whose rates mean
nothing. Where torch or transformers is not installed it runs polar-raw's half alone and says so.
"""
import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/release/polar-raw"
STEP = ROOT / "benches/pytorch/step.py"
SIZES = {
    "1.2M": dict(hidden=128, layers=4, heads=4, kv=2, ff=344),
    "4M": dict(hidden=256, layers=4, heads=4, kv=2, ff=688),
    "20M": dict(hidden=512, layers=6, heads=8, kv=4, ff=1376),
}
TOY = dict(hidden=32, layers=1, heads=2, kv=1, ff=64)
VOCAB, SEQUENCE, PAIRS, WARM_UP = 4096, 512, 4, 3
BOS, SEPARATOR, SCORE = VOCAB - 4, VOCAB - 2, VOCAB - 1


def pytorch(size, steps, data=None, pairs=PAIRS):
    command = [sys.executable, STEP, f"--steps={steps}", f"--vocab={VOCAB}", f"--pairs={pairs}", f"--seq={SEQUENCE}"]
    command += [f"--{key}={value}" for key, value in SIZES[size].items()] + ([f"--data={data}"] if data else [])
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def polar_raw(size, steps, data, start, folder, pairs=PAIRS, share=True):
    """Steps of `polar-raw train` on pairs of ids; its metrics and the peak memory of the process."""
    shape = SIZES[size]
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    settings = {
        "train.steps": steps + WARM_UP, "train.batch_size": pairs, "train.checkpoint_every": 0, "optimizer.lr": 1e-4,
        "data.share_prefix": str(share).lower(), "data.pack_length": 4096, "data.eval_fraction": 0,
        "objective.lm_weight": 0, "data.max_length": 2048, "model.max_position_embeddings": 8192, "model.hidden_size": shape["hidden"],
        "model.intermediate_size": shape["ff"], "model.num_hidden_layers": shape["layers"],
        "model.num_attention_heads": shape["heads"], "model.num_key_value_heads": shape["kv"],
        "tokenizer.kind": "file", "tokenizer.path": start / "tokenizer.json",
    }
    command = [BINARY, "train", "--data", data, "--run", run]
    command += [f"--set={key}={value}" for key, value in settings.items()]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(errors.decode())
    rows = [json.loads(line) for line in open(run / "metrics.jsonl")][WARM_UP:]
    seconds = [row["seconds"] for row in rows]
    per_step = statistics.median(seconds) if not share else sum(seconds) / len(seconds)
    computed = sum(row["tokens"] for row in rows) / len(rows)
    separate = computed + sum(row["tokens_saved"] for row in rows) / len(rows)
    return dict(tokens_per_s=separate / per_step, computed_per_s=computed / per_step, pairs_per_s=pairs / per_step,
                peak_mib=usage.ru_maxrss / 1024, saved=1 - computed / separate)


def vocabulary(folder):
    """A tokenizer.json of VOCAB ids, of which only the number and the special tokens' places matter here."""
    words = {f"w{i}": i for i in range(VOCAB - 5)} | {"<unk>": VOCAB - 5}
    special = ["<s>", "</s>", "<|reward|>", "[UNUSED_TOKEN_130]"]
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    added = [dict(id=BOS + i, content=name, **flags) for i, name in enumerate(special)]
    model = dict(type="WordLevel", vocab=words, unk_token="<unk>")
    parts = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    folder.mkdir()
    text = json.dumps(dict(version="1.0", **dict.fromkeys(parts), added_tokens=added, model=model))
    (folder / "tokenizer.json").write_text(text)
    return folder


def write_pairs(path, rows):
    with open(path, "w") as file:
        for chosen, rejected in rows:
            file.write(json.dumps(dict(chosen_ids=chosen, rejected_ids=rejected)) + "\n")
    return path


def preference_pairs(path, count):
    """POLAR's sequences of preference rows, under a byte-level BPE of VOCAB ids trained on them."""
    from tokenizers import ByteLevelBPETokenizer
    text = lambda value: value if isinstance(value, str) else "\n".join(m["content"] for m in value)
    rows = [{k: text(r[k]) for k in ("prompt", "reference", "chosen", "rejected")} for r in map(json.loads, open(path))]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator((v for row in rows for v in row.values()), vocab_size=VOCAB - 5, show_progress=False)
    encode = lambda *parts: bpe.encode("\n".join(parts)).ids
    sequence = lambda row, key: [BOS, *encode(row["prompt"], row["reference"]), SEPARATOR, *encode(row["prompt"], row[key]), SCORE]
    random.Random(1).shuffle(rows)
    return [(sequence(row, "chosen"), sequence(row, "rejected")) for row in rows[:count]]


def medians(results):
    return {key: statistics.median(r[key] for r in results) for key in results[0] if key != "torch"}


def alternate(rounds, ours, theirs):
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return medians([a for a, _ in pairs]), medians([b for _, b in pairs]), pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--preferences", help="rows {prompt, reference, chosen, rejected}, as JSONL")
    parser.add_argument("--quick", action="store_true", help="shows in seconds that it runs; the rates mean nothing")
    args = parser.parse_args()
    if args.quick:
        global SEQUENCE
        SIZES["toy"], SEQUENCE = TOY, 16
        args.rounds, args.steps, args.sizes = 1, 1, ["toy"]
        missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = vocabulary(folder / "start")
        draw = random.Random(0)
        line = lambda: [draw.randrange(3, VOCAB - 5) for _ in range(SEQUENCE - 1)] + [SCORE]
        synthetic = write_pairs(folder / "synthetic.jsonl", [(line(), line()) for _ in range(64)])
        if args.quick and missing:
            rate = polar_raw("toy", args.steps, synthetic, start, folder, share=False)["tokens_per_s"]
            print(f"polar-raw's half runs ({rate:.0f} tokens/s); PyTorch's is left out: no {' and no '.join(missing)} here")
            return
        print("| model | polar-raw tokens/s | PyTorch tokens/s | ratio (median of rounds; min to max) | peak MiB | PyTorch peak MiB |")
        print("| --- | --- | --- | --- | --- | --- |")
        for size in args.sizes:
            ours, theirs, pairs = alternate(
                args.rounds, lambda: polar_raw(size, args.steps, synthetic, start, folder, share=False),
                lambda: pytorch(size, args.steps))
            ratios = sorted(a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs)
            print(f"| {size} | {ours['tokens_per_s']:.0f} | {theirs['tokens_per_s']:.0f} | {statistics.median(ratios):.2f} "
                  f"({ratios[0]:.2f} to {ratios[-1]:.2f}) | {ours['peak_mib']:.0f} | {theirs['peak_mib']:.0f} |", flush=True)
        if args.preferences:
            data = write_pairs(folder / "pairs.jsonl", preference_pairs(args.preferences, 512))
            print("\n| preferences, 4M, 8 pairs a step | polar-raw pairs/s | PyTorch pairs/s | ratio | tokens saved | peak MiB | PyTorch peak MiB |")
            print("| --- | --- | --- | --- | --- | --- | --- |")
            for share in (True, False):
                ours, theirs, pairs = alternate(
                    args.rounds, lambda: polar_raw("4M", args.steps, data, start, folder, 8, share),
                    lambda: pytorch("4M", args.steps, data, 8))
                ratios = sorted(a["pairs_per_s"] / b["pairs_per_s"] for a, b in pairs)
                print(f"| prefix {'shared' if share else 'not shared'} | {ours['pairs_per_s']:.2f} | {theirs['pairs_per_s']:.2f} | "
                      f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {ours['saved']:.0%} | "
                      f"{ours['peak_mib']:.0f} | {theirs['peak_mib']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
