"""Models exchanged with other programs: POLAR's official modelling code, transformers, gguf.

For each exchange both sides compute on the same random token ids, and the largest difference is printed.
"""
# requires: torch transformers==4.48.3 einops safetensors gguf numpy protobuf sentencepiece
# requires-no-deps: xtuner==0.2.0

import argparse
import importlib.util
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy
import torch
import transformers

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--program", default="target/release/polar-raw")
parser.add_argument("--xtuner", help="the unpacked package, if it is not installed")
arguments = parser.parse_args()

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
folder = tempfile.TemporaryDirectory()
root = pathlib.Path(folder.name)
seed = random.randrange(1 << 32)
print(f"seed {seed}")
random.seed(seed)
torch.manual_seed(seed)
failures = 0

VOCABULARY = 97
SCORE = VOCABULARY - 1
SEQUENCES = [[random.randrange(3, SCORE) for _ in range(random.randrange(2, 40))] + [SCORE] for _ in range(12)]


def official():
    """InternLM2ForRewardModel and its configuration, out of xtuner without importing the rest of it."""
    if arguments.xtuner:
        package = pathlib.Path(arguments.xtuner)
    else:
        package = pathlib.Path(importlib.util.find_spec("xtuner").origin).parent
    place = package / "tools/model_converters/modeling_internlm2_reward"
    spec = importlib.util.spec_from_file_location(
        "modeling_internlm2_reward", place / "__init__.py", submodule_search_locations=[str(place)]
    )
    sys.modules["modeling_internlm2_reward"] = importlib.util.module_from_spec(spec)
    from modeling_internlm2_reward import configuration_internlm2, modeling_internlm2

    return configuration_internlm2.InternLM2Config, modeling_internlm2.InternLM2ForRewardModel


def run(*command):
    done = subprocess.run([arguments.program, *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"polar-raw {' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def ours(model):
    """polar-raw's scores."""
    rows, scores = root / "rows.jsonl", root / "scores.jsonl"
    rows.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in SEQUENCES))
    run("score", "--model", model, "--input", rows, "--output", scores, "--device", "cpu")
    return [json.loads(line)["score"] for line in scores.read_text().splitlines()]


@torch.no_grad()
def theirs(model):
    """Scores of a model of the official code or of transformers, one sequence at a time."""
    model = model.float().eval()
    return [
        model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits.flatten()[0].item()
        for ids in SEQUENCES
    ]


def compare(what, a, b, tolerance):
    global failures
    a, b = numpy.asarray(a, dtype=numpy.float64), numpy.asarray(b, dtype=numpy.float64)
    same = a.shape == b.shape and bool(numpy.all(numpy.abs(a - b) <= tolerance * (1 + numpy.abs(b))))
    worst = numpy.max(numpy.abs(a - b)) if a.shape == b.shape else "other shapes"
    failures += not same
    print(f"{'ok  ' if same else 'FAIL'} {what}: {a.size} values, largest difference {worst:.2e}" if a.shape == b.shape else f"FAIL {what}: {a.shape} {b.shape}")


def fresh(model):
    """Weights of a size at which every part of the network matters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (1 if "norm" in name else 0))
    return model


def logits(path, cls):
    model = cls.from_pretrained(path, torch_dtype=torch.float32)
    with torch.no_grad():
        return numpy.concatenate([model(torch.tensor([ids])).logits[0].numpy().ravel() for ids in SEQUENCES])


Configuration, RewardModel = official()
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}

# The official code writes, polar-raw reads.
for bias in (False, True):
    configuration = Configuration(
        **SIZES, bias=bias, pretraining_tp=1, rope_theta=1e6, reward_token_id=SCORE, rope_scaling={"type": "dynamic", "factor": 2.0},
    )
    model = fresh(RewardModel(configuration))
    scores = theirs(model)
    for safe, size in ((True, "5GB"), (True, "50KB"), (False, "5GB"), (False, "50KB")):
        path = root / f"official-{bias}-{safe}-{size}"
        model.save_pretrained(path, safe_serialization=safe, max_shard_size=size)
        files = len(list(path.glob("*.safetensors" if safe else "*.bin")))
        kind = "safetensors" if safe else ".bin"
        compare(f"official code writes {files} {kind}, bias {bias}, polar-raw scores", ours(path), scores, 1e-5)

    # polar-raw writes, the official code reads.
    source = root / f"official-{bias}-True-5GB"
    for dtype in ("float32", "bfloat16", "float16"):
        for target in ("internlm2", "internlm2-bin"):
            for size in (10**9, 50_000) if dtype == "float32" else (10**9,):
                path = root / f"ours-{bias}-{dtype}-{target}-{size}"
                run("convert", "--from", source, "--to", path, "--dtype", dtype, "--as", target, "--max-shard-bytes", size)
                loaded, info = RewardModel.from_pretrained(path, output_loading_info=True)
                if any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
                    failures += 1
                    print("FAIL", path.name, info)
                files = len(list(path.glob("*.safetensors"))) + len(list(path.glob("*.bin")))
                compare(f"polar-raw writes {dtype}, {target}, {files} files, the official code scores", theirs(loaded), ours(path), 1e-5)

# transformers writes Llama and Qwen2, polar-raw converts, and transformers reads the result.
for family in ("Llama", "Qwen2"):
    config_class = getattr(transformers, f"{family}Config")
    for tied in (False, True):
        for bias in ((False, True) if family == "Llama" else (True,)):
            extra = {"attention_bias": bias} if family == "Llama" else {}
            configuration = config_class(**SIZES, tie_word_embeddings=tied, rope_theta=50_000.0, **extra)
            causal = getattr(transformers, f"{family}ForCausalLM")
            model = fresh(causal(configuration))
            path = root / f"{family}-{tied}-{bias}"
            model.save_pretrained(path, safe_serialization=not tied)
            expected = logits(path, causal)
            converted, back = path.with_name(path.name + "-ours"), path.with_name(path.name + "-back")
            run("convert", "--from", path, "--to", converted)
            run("convert", "--from", converted, "--to", back, "--as", family.lower())
            what = f"{family}ForCausalLM, tied {tied}, bias {bias}"
            compare(f"{what}: to polar-raw and back, logits", logits(back, causal), expected, 1e-6)
            if family == "Llama" and bias:
                continue  # GGUF files with biases are Qwen2's, which has none for the output
            run("convert", "--from", path, "--to", path.with_suffix(".gguf"), "--as", "gguf")
            run("convert", "--from", path.with_suffix(".gguf"), "--to", path.with_suffix(".again"), "--as", family.lower())
            compare(f"{what}: to GGUF and back, logits", logits(path.with_suffix(".again"), causal), expected, 1e-6)

        # A reward model.
        classifier = getattr(transformers, f"{family}ForSequenceClassification")
        configuration = config_class(**SIZES, num_labels=1)
        model = fresh(classifier(configuration))
        path = root / f"{family}-reward-{tied}"
        model.save_pretrained(path)
        compare(f"{family}ForSequenceClassification, polar-raw scores", ours(path), theirs(model), 1e-5)
        converted, back = path.with_suffix(".ours"), path.with_suffix(".back")
        run("convert", "--from", path, "--to", converted)
        run("convert", "--from", converted, "--to", back, "--as", family.lower(), "--max-shard-bytes", 60_000)
        compare(f"{family}ForSequenceClassification, to polar-raw and back", theirs(classifier.from_pretrained(back)), theirs(model), 1e-5)

# The official reward model as Llama, without biases.
path = root / "as-llama"
run("convert", "--from", root / "official-False-True-5GB", "--to", path, "--as", "llama")
compare(
    "InternLM2ForRewardModel as LlamaForSequenceClassification",
    theirs(transformers.LlamaForSequenceClassification.from_pretrained(path)), ours(root / "official-False-True-5GB"), 1e-5,
)

# GGUF: what the package gguf takes out of each type is what polar-raw takes out.
import gguf  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"):
    path = root / f"{kind}.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    number = gguf.GGMLQuantizationType[kind]
    shapes = {"token_embd": (VOCABULARY, 64), "output": (VOCABULARY, 64), "blk.0.attn_q": (64, 64), "blk.0.attn_k": (32, 64),
              "blk.0.attn_v": (32, 64), "blk.0.attn_output": (64, 64), "blk.0.ffn_gate": (96, 64), "blk.0.ffn_up": (96, 64),
              "blk.0.ffn_down": (64, 96)}
    originals = {}
    for name, shape in shapes.items():
        values = numpy.random.default_rng(random.randrange(1 << 32)).normal(size=shape).astype(numpy.float32)
        values[0, :32] = 0
        originals[name] = values
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, number), raw_dtype=number)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", numpy.ones(64, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    run("convert", "--from", path, "--to", root / kind, "--dtype", "float32")
    run("convert", "--from", path, "--to", root / f"{kind}-llama", "--dtype", "float32", "--as", "llama")
    read, llama = load_file(root / kind / "model.safetensors"), load_file(root / f"{kind}-llama" / "model.safetensors")
    stored = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
    undo = lambda w, heads: w.reshape(heads, 8, 2, 64).swapaxes(1, 2).reshape(w.shape)
    compare(f"{kind}: embedding, bit for bit", read["model.tok_embeddings.weight"], stored["token_embd.weight"], 0)
    compare(f"{kind}: w2, bit for bit", read["model.layers.0.feed_forward.w2.weight"], stored["blk.0.ffn_down.weight"], 0)
    attention = "model.layers.0.self_attn."
    compare(f"{kind}: queries, bit for bit", llama[attention + "q_proj.weight"], undo(stored["blk.0.attn_q.weight"], 4), 0)
    compare(f"{kind}: keys, bit for bit", llama[attention + "k_proj.weight"], undo(stored["blk.0.attn_k.weight"], 2), 0)
    compare(f"{kind}: values, bit for bit", llama[attention + "v_proj.weight"], stored["blk.0.attn_v.weight"], 0)

    # And back: polar-raw's bytes are the package's.
    dtype = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(kind, kind.lower())
    run("convert", "--from", root / "F32.gguf", "--to", root / f"{kind}-written.gguf", "--as", "gguf", "--dtype", dtype)
    plain = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(root / "F32.gguf").tensors}
    for tensor in gguf.GGUFReader(root / f"{kind}-written.gguf").tensors:
        if tensor.name in ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_down.weight"):
            compare(f"{kind}: {tensor.name} written, byte for byte",
                    numpy.asarray(tensor.data).view(numpy.uint8), gguf.quants.quantize(plain[tensor.name], number).view(numpy.uint8), 0)

if failures:
    sys.exit(f"{failures} of the comparisons failed")
