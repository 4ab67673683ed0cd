"""The official client, unmodified, against a running server: right scores in all three of its modes.

`RewardModelClient` comes from xtuner's wheel, whose file is loaded by its path: importing the package would ask for
everything that xtuner trains with. The model is random; what the scores have to be is said by `polar-raw score`, given
the ids that transformers makes of the client's strings.
"""
# requires: torch transformers==4.48.3 safetensors tokenizers requests
# requires-no-deps: xtuner==0.2.0

import contextlib
import importlib.metadata
import importlib.util
import io
import pathlib
import random
import re
import sys
import tempfile
import threading
import time
import urllib.request

import serving


def official():
    files = importlib.metadata.files("xtuner")
    path = next(file for file in files if str(file) == "xtuner/utils/rm_utils.py").locate()
    spec = importlib.util.spec_from_file_location("rm_utils", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RewardModelClient


def quietly(call, *args):
    """The client prints each string that it cuts, and the whole request when it fails."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        result = call(*args)
    return result, said.getvalue()


def rows(count, seed):
    """Rows in every form that the client takes; some are to be cut, some spell special tokens."""
    source = random.Random(seed)
    made = []
    for i in range(count):
        prompt, reference, output = (serving.text(source, 1, most) for most in (60, 40, 40))
        if i % 7 == 3:
            output += " <|reward|> [UNUSED_TOKEN_130] </s> "
        if i % 11 == 5:
            reference = serving.text(source, 150, 200)
        if i % 13 == 6:
            prompt = serving.text(source, 400, 500)
        row = {"prompt": prompt, "reference": reference, "output": output}
        if i % 3 == 1:
            roles = {"prompt": "user", "reference": "assistant", "output": "assistant"}
            row = {key: [{"role": roles[key], "content": text}, {"role": "user", "content": "é"}] for key, text in row.items()}
        if i % 5 == 2:
            row["wrapper"] = "pretrain"
        made.append(row)
    return made


def wanted(client, folder, data):
    """The scores of what the client sends, without a server."""
    strings, _ = quietly(client.encode, data)
    return serving.direct(folder, [{"input_ids": client.tokenizer(string)["input_ids"]} for string in strings])


def metric(server, pattern):
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        return sum(float(value) for value in re.findall("^" + pattern + r" (\S+)$", answer.read().decode(), re.M))


def main():
    RewardModelClient = official()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        serving.model(folder)

        def client(kind, address, **options):
            return RewardModelClient(str(folder), server_type=kind, server_address=address, **options)

        data = rows(40, 1)
        for compat, bare in (("vllm", ("sglang", "vllm")), ("lmdeploy", ("sglang", "lmdeploy"))):
            with serving.Server(folder, "--compat", compat) as server:
                for kind in bare:
                    one = client(kind, server.address, max_length=600, max_response_length=80)
                    scores, said = quietly(one, data)
                    assert "max_response_length" in said and "max_prompt_length" in said, "nothing was cut"
                    serving.compare(f"--compat {compat}, {kind}", scores, wanted(one, folder, data))
                for kind in ("sglang", "vllm", "lmdeploy"):
                    for side in ("left", "right"):
                        options = {"max_length": 600, "max_response_length": 80, "response_cut_side": side}
                        one = client(kind, f"{server.address}/{kind}", **options)
                        scores, _ = quietly(one, data)
                        serving.compare(f"prefix /{kind}, cut side {side}", scores, wanted(one, folder, data))

        with serving.Server(folder) as server:
            plain = [row for row in rows(60, 2) if isinstance(row["prompt"], str) and "<|" not in row["output"]]
            whole = client("sglang", server.address)
            serving.compare("whole rows against rows of text", quietly(whole, plain)[0], serving.direct(folder, plain))
            # A batch as a training step sends it.
            data = rows(640, 3)
            for kind in ("sglang", "vllm", "lmdeploy"):
                one = client(kind, f"{server.address}/{kind}")
                serving.compare(f"a batch of 640 in one request, {kind}", quietly(one, data)[0], wanted(one, folder, data))
            hits = metric(server, "polar_raw_cache_hits_total")
            assert hits >= 2 * 640, f"{hits} scores came from the cache"
            print(f"the same batch again: {hits:.0f} scores came from the cache")

        # A queue that is full for a while: the client is refused, and asks again.
        with serving.Server(folder, "--queue", "1", "--cache", "0") as server:
            one = client("sglang", server.address)
            strings, _ = quietly(one.encode, rows(4000, 10))
            begun = time.monotonic()
            right = one.sglang_request_reward(strings[:100])
            # Enough for less than a second on this machine.
            large = strings[: int(100 * 0.7 / (time.monotonic() - begun))]
            other = threading.Thread(target=one.sglang_request_reward, args=(large,))
            other.start()
            while metric(server, "polar_raw_queue_depth") == 0:
                assert other.is_alive(), "the large request was not there for long enough"
            scores, _ = quietly(one.sglang_request_reward, strings[:100])
            other.join()
            refused = metric(server, r'polar_raw_requests_total\{path="/classify",status="429"\}')
            assert refused > 0, "nothing was refused"
            serving.compare(f"a full queue, refused {refused:.0f} times, then", scores, right)

        # A batch that takes longer than a request may: each retry goes on where the one before stopped.
        with serving.Server(folder, "--pack-length", "1024") as server:
            one = client("vllm", server.address)
            strings, _ = quietly(one.encode, rows(8000, 20))
            begun = time.monotonic()
            quietly(one.vllm_request_reward, strings[:400])
            # Enough for about four seconds on this machine. Each try encodes all of it anew, which takes a quarter of that.
            count = min(len(strings), int(400 * 4 / (time.monotonic() - begun)))
        with serving.Server(folder, "--timeout", "2", "--pack-length", "1024") as server:
            one = client("vllm", server.address)
            scores, _ = quietly(one.vllm_request_reward, strings[:count])
            late = metric(server, r'polar_raw_requests_total\{path="/pooling",status="503"\}')
            if scores is None:
                sys.exit("the client gave up")
            some = random.Random(0).sample(range(count), 200)
            right = wanted(one, folder, [strings[i] for i in some])
            serving.compare(f"{count} rows, out of time {late:.0f} times, then", [scores[i] for i in some], right)
            assert late > 0, "no request ran out of time"


if __name__ == "__main__":
    main()
