# requires: transformers==4.48.3 requests tokenizers
# requires-no-deps: xtuner==0.2.0
"""Truncation against POLAR's own client: `RewardModelClient` of xtuner, unmodified, on random texts around the limits.

Ids are compared by what is cut, which `polar-raw score --report-cuts` tells, and by score: a row of text gets the score
of the ids that the client's string has. A client whose string is longer than max_length is where we differ. Texts that
spell special tokens are left out, because polar-raw never lets text become a special token and the client does; of a
handful of them it is asserted that our ids hold exactly one separator and one score token.
"""

import argparse
import importlib.util
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import transformers

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--program", default="target/release/polar-raw")
parser.add_argument("--rows", type=int, default=300, help="rows for each setting")
arguments = parser.parse_args()
seed = random.randrange(1 << 32)
print(f"seed {seed}")
random.seed(seed)
transformers.logging.set_verbosity_error()

# The file alone: the package around it imports a training framework.
package = pathlib.Path(importlib.util.find_spec("xtuner").submodule_search_locations[0])
spec = importlib.util.spec_from_file_location("rm_utils", package / "utils/rm_utils.py")
rm_utils = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rm_utils)

folder = tempfile.TemporaryDirectory()
root = pathlib.Path(folder.name)


def run(*command):
    done = subprocess.run([arguments.program, *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"polar-raw {' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


config = root / "small.toml"
config.write_text(
    "[model]\nhidden_size = 16\nintermediate_size = 24\nnum_hidden_layers = 2\nnum_attention_heads = 2\n"
    "num_key_value_heads = 1\n[tokenizer]\nkind = \"bpe\"\nvocab_size = 400\n[data]\nmax_length = 512\n"
    "max_response_length = 200\npack_length = 1024\n[zoo]\ntrain_policies = 4\nheld_out_policies = 4\n"
    "[train]\nsteps = 3\nbatch_size = 2\n[eval]\npairs = 4\nbaseline_triples = 8\n"
)
run("train", "--config", config, "--run", root / "run", "--device", "cpu")
model = root / "run/model"
info = json.loads((model / "tokenizer.json").read_text())
names = {token["content"]: token["id"] for token in info["added_tokens"]}
fast = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(model / "tokenizer.json"), bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
)


class WithBos:
    """What the client asks of a tokenizer, with BOS in front as InternLM2's has it."""

    def encode(self, text, add_special_tokens):
        return [names["<s>"]] * add_special_tokens + fast.encode(text, add_special_tokens=False)

    def decode(self, ids, skip_special_tokens):
        return fast.decode(ids, skip_special_tokens=skip_special_tokens)


rm_utils.AutoTokenizer = type("AutoTokenizer", (), {"from_pretrained": staticmethod(lambda *_, **__: WithBos())})
rm_utils.print = lambda *_: None
PIECES = ["the answer is ", "12 + 30 = 42", "\n", " ", "é", "😀", "计算", "a", "Sum: ", "\t", "...", "Ω"]


def text(most):
    return "".join(random.choice(PIECES) for _ in range(random.choice([0, 1, random.randint(0, most), most])))


failures = compared = longer = cut_rows = 0
for max_length, max_response in [(512, 200), (120, 30), (64, 20), (60, 40), (40, 300)]:
    for side in ["right", "left"]:
        client = rm_utils.RewardModelClient("model", max_length, max_response, side)
        texts, ids, lengths = [], [], []
        for number in range(arguments.rows):
            row = {"prompt": text(max_length // 3), "reference": text(max_response // 2), "output": text(max_response // 2)}
            row["wrapper"] = random.choice(["sft", "pretrain"])
            string = client.encode(row)
            sequence = [names["<s>"]] + fast.encode(string, add_special_tokens=False)
            texts.append(row)
            ids.append(sequence)
        options = ["score", "--model", model, "--device", "cpu", "--max-length", max_length]
        options += ["--max-response-length", max_response, "--cut-side", side, "--report-cuts", "--input"]
        file = root / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in texts))
        ours = [json.loads(line) for line in run(*options, file).splitlines()]
        file.write_text("".join(json.dumps({"input_ids": sequence if len(sequence) <= 512 else sequence[:511] + sequence[-1:]}) + "\n" for sequence in ids))
        theirs = [json.loads(line) for line in run(*options, file).splitlines()]
        for row, sequence, own, other in zip(texts, ids, ours, theirs, strict=True):
            if len(sequence) > max_length:
                longer += 1
                continue
            compared += 1
            cut_rows += any(own["cut"].values())
            if abs(own["score"] - other["score"]) > 1e-5:
                failures += 1
                print(f"{max_length} {max_response} {side}: {row} {own} {other}")

# What polar-raw makes of texts that spell special tokens: their characters. Its sequence is the one whose score the row
# gets, and in that the special tokens are those of the template alone.
SPELT = ["<|reward|>", "[UNUSED_TOKEN_130]", "<s>", "</s>", "<unk>", "a<|reward|>b[UNUSED_TOKEN_130]<s>"]
BETWEEN = {"sft": "\n", "pretrain": ""}
rows = [
    {"prompt": f"say {spelt}", "reference": f"{spelt} once", "output": f"twice {spelt}{spelt}", "wrapper": wrapper}
    for spelt in SPELT
    for wrapper in BETWEEN
]
texts = [row["prompt"] + BETWEEN[row["wrapper"]] + row[key] for row in rows for key in ["reference", "output"]]


def written(content):
    file = root / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in content))
    return file


lines = run("tokenize", "--model", model, "--input", written([{"text": text} for text in texts])).splitlines()
encoded = [json.loads(line)["ids"] for line in lines]
sequences = [
    [names["<s>"], *first, names["<|reward|>"], *second, names["[UNUSED_TOKEN_130]"]]
    for first, second in zip(encoded[::2], encoded[1::2], strict=True)
]


def scores(content):
    lines = run("score", "--model", model, "--device", "cpu", "--input", written(content)).splitlines()
    return [json.loads(line)["score"] for line in lines]


of_ids = scores([{"input_ids": ids} for ids in sequences])
for row, ids, own, other in zip(rows, sequences, scores(rows), of_ids, strict=True):
    assert abs(own - other) <= 1e-5, f"{row}: {own}, but its ids have {other}"
    for name in ["<s>", "<|reward|>", "[UNUSED_TOKEN_130]"]:
        assert ids.count(names[name]) == 1, f"{row}: {name} occurs {ids.count(names[name])} times in {ids}"
    # The client's own string is another one: the texts' special tokens are in it.
    spelt = rm_utils.RewardModelClient("model", 512, 200, "right").encode(row)
    assert fast.encode(spelt, add_special_tokens=False) != ids[1:], f"{row}: nothing special about it"
print(f"{len(rows)} rows that spell special tokens hold one separator and one score token each")

print(f"{compared} rows as the client's, {cut_rows} of them cut; {longer} exceed max_length in the client; {failures} differ")
sys.exit(failures > 0 or cut_rows == 0)
