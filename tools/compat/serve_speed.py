"""Requests a second of `polar-raw serve`, and of PyTorch with transformers scoring the same rows in padded batches.

Same weights, same strings, f32, all cores for both, one after the other and in turn. PyTorch gets what is best for it
of several batch sizes, in the order of the rows and sorted by length, and talks to nobody; the server is asked over
HTTP, eight connections at a time, a request of eight candidates each, without its cache. Take figures on a machine
that does nothing else: tools/compat/run serve_speed
"""
# requires: torch transformers==4.48.3 safetensors tokenizers

import argparse
import http.client
import json
import os
import pathlib
import random
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import serving
import torch
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

SIZES = {
    "3M": {"hidden": 256, "layers": 4, "heads": 4, "kv_heads": 2, "ffn": 688, "vocab": 4096},
    "26M": {"hidden": 512, "layers": 8, "heads": 8, "kv_heads": 4, "ffn": 1376, "vocab": 4096},
}
CANDIDATES = 8
BATCHES = (1, 4, 8, 16, 32)


class Torch:
    """The reward model as somebody would score with it: transformers' Llama, the same weights, the last token's state."""

    def __init__(self, folder, config, tensors):
        heads, kv, size = config["num_attention_heads"], config["num_key_value_heads"], config["hidden_size"]
        size //= heads
        llama = LlamaConfig(
            vocab_size=config["vocab_size"], hidden_size=config["hidden_size"], intermediate_size=config["intermediate_size"],
            num_hidden_layers=config["num_hidden_layers"], num_attention_heads=heads, num_key_value_heads=kv,
            rope_theta=config["rope_theta"], rms_norm_eps=config["rms_norm_eps"], use_cache=False,
            max_position_embeddings=config["max_position_embeddings"], attn_implementation="sdpa",
        )
        weights = {"embed_tokens.weight": tensors["model.tok_embeddings.weight"], "norm.weight": tensors["model.norm.weight"]}
        for i in range(config["num_hidden_layers"]):
            ours, theirs = f"model.layers.{i}.", f"layers.{i}."
            groups = tensors[ours + "attention.wqkv.weight"].view(kv, heads // kv + 2, size, -1)
            weights |= {
                theirs + "self_attn.q_proj.weight": groups[:, :-2].reshape(heads * size, -1),
                theirs + "self_attn.k_proj.weight": groups[:, -2].reshape(kv * size, -1),
                theirs + "self_attn.v_proj.weight": groups[:, -1].reshape(kv * size, -1),
                theirs + "self_attn.o_proj.weight": tensors[ours + "attention.wo.weight"],
                theirs + "mlp.gate_proj.weight": tensors[ours + "feed_forward.w1.weight"],
                theirs + "mlp.up_proj.weight": tensors[ours + "feed_forward.w3.weight"],
                theirs + "mlp.down_proj.weight": tensors[ours + "feed_forward.w2.weight"],
                theirs + "input_layernorm.weight": tensors[ours + "attention_norm.weight"],
                theirs + "post_attention_layernorm.weight": tensors[ours + "ffn_norm.weight"],
            }
        self.model = LlamaModel(llama)
        self.model.load_state_dict(weights)
        self.model.eval()
        self.head = tensors["v_head.weight"]
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="right")

    @torch.inference_mode()
    def score(self, strings, batch, by_length):
        order = sorted(range(len(strings)), key=lambda i: len(strings[i])) if by_length else range(len(strings))
        order, scores = list(order), [0.0] * len(strings)
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            inputs = self.tokenizer([strings[i] for i in part], padding=True, return_tensors="pt")
            states = self.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
            last = states[torch.arange(len(part)), inputs["attention_mask"].sum(1) - 1]
            for i, score in zip(part, (last @ self.head.T)[:, 0].tolist()):
                scores[i] = score
        return scores


def served(address, requests, connections):
    """All requests over HTTP; their scores in order, and the seconds that each took."""
    host, port = address.split(":")

    def work(part):
        connection = http.client.HTTPConnection(host, int(port))
        results = []
        for index, strings in part:
            begun = time.perf_counter()
            connection.request("POST", "/classify", json.dumps({"text": strings}), {"Content-Type": "application/json"})
            reply = json.load(connection.getresponse())
            results.append((index, [entry["embedding"][0] for entry in reply], time.perf_counter() - begun))
        return results

    parts = [list(enumerate(requests))[i::connections] for i in range(connections)]
    with ThreadPoolExecutor(connections) as pool:
        results = sorted(result for part in pool.map(work, parts) for result in part)
    return [score for _, scores, _ in results for score in scores], [seconds for _, _, seconds in results]


def workload(shared, count):
    """Requests of eight candidates: of one prompt and reference each, or of eight."""
    source = random.Random(9)
    requests = []
    for _ in range(count):
        strings = []
        for i in range(CANDIDATES):
            if i == 0 or not shared:
                prompt, reference = serving.text(source, 60, 120), serving.text(source, 40, 160)
            strings.append(f"{prompt}\n{reference}<|reward|>{prompt}\n{serving.text(source, 40, 160)}[UNUSED_TOKEN_130]")
        requests.append(strings)
    return requests


def timed(call):
    begun = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begun


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--size", choices=SIZES, default="3M")
    arguments.add_argument("--requests", type=int, default=24)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--connections", type=int, default=8)
    args = arguments.parse_args()
    torch.set_num_threads(os.cpu_count())
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        config, tensors = serving.model(folder, **SIZES[args.size], scale=0.03)
        reference = Torch(folder, config, tensors)
        with serving.Server(folder, "--cache", "0") as server:
            for shared, what in ((True, "eight candidates of one prompt"), (False, "eight prompts")):
                requests = workload(shared, args.requests)
                strings = [string for request in requests for string in request]
                tokens = sum(len(reference.tokenizer(string)["input_ids"]) for string in strings)
                reference.score(strings[:16], 8, False)
                served(server.address, requests[:4], args.connections)
                settings = [(batch, by_length) for batch in BATCHES for by_length in (False, True)]
                # A third of the rows says which setting is best.
                some = strings[: max(32, len(strings) // 3)]
                tried = {setting: timed(lambda: reference.score(some, *setting))[1] for setting in settings}
                batch, by_length = best = min(tried, key=tried.get)
                theirs, ours, latencies = [], [], []
                for _ in range(args.repeats):
                    wanted, seconds = timed(lambda: reference.score(strings, *best))
                    theirs.append(seconds)
                    (found, each), seconds = timed(lambda: served(server.address, requests, args.connections))
                    ours.append(seconds)
                    latencies += each
                serving.compare(f"{args.size}, requests of {what}", found, wanted, 1e-3)
                their, our = statistics.median(theirs), statistics.median(ours)
                latencies.sort()
                quantile = lambda q: latencies[int((len(latencies) - 1) * q)] * 1e3  # noqa: E731
                print(
                    f"  {args.requests} requests, {tokens} tokens: polar-raw {args.requests / our:.2f} requests a second "
                    f"(p50 {quantile(0.5):.0f} ms, p99 {quantile(0.99):.0f} ms at {args.connections} connections), PyTorch "
                    f"{args.requests / their:.2f} (batches of {batch}, {'sorted by length' if by_length else 'in order'}), "
                    f"ratio {their / our:.2f}"
                )


if __name__ == "__main__":
    main()
