"""What the comparisons of the server have in common: a random model, a running server, scores computed without it."""

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading

# Checks are named after what they compare with: here a package is meant, and not a check.
sys.path = [path for path in sys.path if pathlib.Path(path).resolve() != pathlib.Path(__file__).resolve().parents[1]]

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROGRAM = os.environ.get("POLAR_RAW", str(ROOT / "target" / "release" / "polar-raw"))
WORDS = (
    "the a of to and number answer is question what how many apples sum add then so we get result first second list "
    "because therefore if each total cost price box red blue seven three twelve naïve Größe 数学 答え 😀 \u00a0 x=1; def"
).split()


def text(source, least, most):
    """Words with punctuation and line ends, between `least` and `most` of them."""
    words = [source.choice(WORDS) + source.choice(["", "", "", ",", ".", "\n", "  "]) for _ in range(source.randint(least, most))]
    return " ".join(words)


def tokenizer(folder, vocab):
    """A byte-level BPE with POLAR's special tokens, as Hugging Face reads it."""
    source = random.Random(1)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<|reward|>", "[UNUSED_TOKEN_130]"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator((text(source, 5, 60) for _ in range(2000)), trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    bpe.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": "</s>", "add_bos_token": True, "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return bpe.token_to_id("[UNUSED_TOKEN_130]")


def model(folder, hidden=64, layers=2, heads=4, kv_heads=2, ffn=160, vocab=512, positions=4096, scale=0.1):
    """Writes a reward model with random weights as POLAR's checkpoints are laid out; returns its tensors."""
    score = tokenizer(folder, vocab)
    torch.manual_seed(0)
    size = hidden // heads
    shapes = {"model.tok_embeddings.weight": (vocab, hidden)}
    for i in range(layers):
        layer = f"model.layers.{i}."
        shapes |= {
            layer + "attention_norm.weight": (hidden,),
            layer + "attention.wqkv.weight": ((heads + 2 * kv_heads) * size, hidden),
            layer + "attention.wo.weight": (hidden, heads * size),
            layer + "ffn_norm.weight": (hidden,),
            layer + "feed_forward.w1.weight": (ffn, hidden),
            layer + "feed_forward.w3.weight": (ffn, hidden),
            layer + "feed_forward.w2.weight": (hidden, ffn),
        }
    shapes |= {"model.norm.weight": (hidden,), "v_head.weight": (1, hidden)}
    tensors = {name: 1 + 0.1 * torch.randn(s) if len(s) == 1 else scale * torch.randn(s) for name, s in shapes.items()}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = {
        "architectures": ["InternLM2ForRewardModel"], "model_type": "internlm2", "hidden_size": hidden,
        "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocab, "rope_theta": 1e6, "rope_scaling": None,
        "rms_norm_eps": 1e-5, "max_position_embeddings": positions, "initializer_range": 0.02, "bias": False,
        "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
        "reward_token_id": score, "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return config, tensors


class Server:
    """`polar-raw serve` over a folder, until the end of a `with`."""

    def __init__(self, folder, *args):
        command = [PROGRAM, "serve", "--device", "cpu", "--port", "0", "--model", str(folder), *args]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        if not line.startswith("listening on http://"):
            sys.exit(f"{line}{self.process.stderr.read()}")
        self.address = line.removeprefix("listening on http://").split(": ")[0]
        self.url = f"http://{self.address}"
        while not self.process.stderr.readline().startswith("ready"):
            if self.process.poll() is not None:
                sys.exit("the server ended")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        if self.process.wait(60) != 0:
            sys.exit(f"the server ended with status {self.process.returncode}")


def direct(folder, rows):
    """Scores of rows as `polar-raw score` gives them."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        command = [PROGRAM, "score", "--device", "cpu", "--model", str(folder), "--input", file.name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line)["score"] for line in done.stdout.splitlines()]


def compare(what, found, wanted, tolerance=1e-5):
    """Prints and checks the largest difference."""
    if found is None or len(found) != len(wanted):
        sys.exit(f"{what}: {found if found is None else len(found)} scores instead of {len(wanted)}")
    worst = max(abs(a - b) / (1 + abs(b)) for a, b in zip(found, wanted))
    print(f"{what}: {len(wanted)} scores, largest difference {worst:.1e}")
    if not worst <= tolerance:
        sys.exit(f"{what}: more than {tolerance:.0e}")
