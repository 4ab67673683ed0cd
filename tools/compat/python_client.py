"""clients/polar_raw.py against a running server: called as TRL and verl call reward functions."""
# requires: torch safetensors tokenizers numpy

import inspect
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading

import numpy
import serving

sys.path.insert(0, str(serving.ROOT / "clients"))
import polar_raw  # noqa: E402


def refused(what, call, part):
    try:
        result = call()
    except polar_raw.PolarRawError as error:
        assert part in str(error), f"{what}: {error}"
        print(f"{what}: refused: {error}")
    else:
        sys.exit(f"{what}: {result}")


def main():
    source = random.Random(5)
    # Eight completions of each of twelve prompts, in GRPO's order.
    prompts, references, completions = [], [], []
    for _ in range(12):
        prompt, reference = serving.text(source, 5, 40), serving.text(source, 1, 30)
        for _ in range(8):
            prompts.append(prompt)
            references.append(reference)
            completions.append(serving.text(source, 1, 30))
    rows = [
        {"prompt": p, "reference": r, "output": c} for p, r, c in zip(prompts, references, completions)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        serving.model(folder)
        wanted = serving.direct(folder, rows)
        (folder / "key").write_text("a-key\n")
        user = lambda text: [{"role": "user", "content": text}]  # noqa: E731
        assistant = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731
        with serving.Server(folder, "--api-key-file", str(folder / "key")) as server:
            # TRL: GRPOTrainer calls with keywords, the other columns of the data set, and what else it has.
            reward = polar_raw.trl_reward(server.url, key="a-key")
            assert reward.__name__ == "polar_raw"
            ids = [[1, 2]] * len(prompts)
            found = reward(prompts=prompts, completions=completions, completion_ids=ids, reference=references, trainer_state=None)
            serving.compare("TRL, plain texts", found, wanted)
            found = reward(
                prompts=[user(p) for p in prompts], completions=[assistant(c) for c in completions], reference=references
            )
            serving.compare("TRL, conversations", found, wanted)
            refused("TRL without the column", lambda: reward(prompts=prompts, completions=completions), "no column 'reference'")

            # verl: the prompt and the reference come out of parquet files, where lists are arrays.
            os.environ |= {"POLAR_RAW_URL": server.url, "POLAR_RAW_KEY": "a-key"}
            assert list(inspect.signature(polar_raw.compute_score).parameters)[:4] == [
                "data_source", "solution_str", "ground_truth", "extra_info",
            ]
            info = lambda p: {"split": "train", "index": 0, "prompt": numpy.array(user(p), dtype=object)}  # noqa: E731
            truth = lambda r: numpy.array(assistant(r), dtype=object)  # noqa: E731
            found = [
                polar_raw.compute_score(data_source="polar", solution_str=c, ground_truth=truth(r), extra_info=info(p))
                for p, r, c in list(zip(prompts, references, completions))[:20]
            ]
            serving.compare("verl, one by one", found, wanted[:20])
            found = polar_raw.compute_score_batch(
                data_sources=["polar"] * len(prompts), solution_strs=completions, ground_truths=references,
                extra_infos=[info(p) for p in prompts],
            )
            serving.compare("verl, a batch", found, wanted)
            thoughts = ["<think>{}</think>\n\n{}\n", "Well. <think>\n{}\n</think>{}", "<think></think>{1}"]
            thinking = [thoughts[i % 3].format(prompts[i], c) for i, c in enumerate(completions)]
            stripped = serving.direct(folder, [row | {"output": row["output"].strip()} for row in rows])
            found = polar_raw.compute_score_batch(
                data_sources=["polar"] * len(prompts), solution_strs=thinking, ground_truths=references,
                extra_infos=[info(p) for p in prompts],
            )
            serving.compare("verl, responses that think", found, stripped)
            endless = [f"<think>{c}" for c in completions[:8]]
            found = [polar_raw.compute_score("polar", c, references[0], info(prompts[0])) for c in endless]
            serving.compare("verl, thoughts without end", found, serving.direct(
                folder, [{"prompt": prompts[0], "reference": references[0], "output": c} for c in endless]
            ))
            refused("verl without a prompt", lambda: polar_raw.compute_score("polar", "a", "b", {}), '"prompt"')
            refused("a wrong key", lambda: polar_raw.Client(server.url, "other").score([("a", "b", "c")]), "401")
            assert polar_raw.Client(server.url, "a-key").score([]) == []

        # A server that is busy, or not there yet, is asked again; one that never comes is an error.
        with serving.Server(folder, "--queue", "1", "--cache", "0") as server:
            found = polar_raw.Client(server.url).score(zip(prompts, references, completions))
            serving.compare("a queue of one", found, wanted)
        late = []
        port = server.address.split(":")[1]
        command = [serving.PROGRAM, "serve", "--device", "cpu", "--port", port, "--model", str(folder)]
        start = lambda: late.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))  # noqa: E731
        timer = threading.Timer(1.0, start)
        timer.start()
        serving.compare("a server that starts late", polar_raw.Client(server.url).score(zip(prompts, references, completions)), wanted)
        timer.join()
        late[0].terminate()
        assert late[0].wait(60) == 0
        refused("no server", lambda: polar_raw.Client(server.url, retries=2).score([("a", "b", "c")]), "asked 3 times")


if __name__ == "__main__":
    main()
