"""OpenRLHF's and verl's own code, of pinned versions, asking the server for rewards: they get those of `score`."""
# requires: torch safetensors tokenizers numpy omegaconf aiohttp
# requires-no-deps: openrlhf==0.11.2 verl==0.9.1

import asyncio
import importlib
import importlib.util
import os
import pathlib
import random
import sys
import tempfile
import types

import serving


def module(package, path):
    """A module out of an installed package, without running the package's own beginnings, which want vLLM or Ray."""
    root = pathlib.Path(importlib.util.find_spec(package).submodule_search_locations[0])
    names = [package, *path.split(".")[:-1]]
    for depth in range(len(names)):
        name = ".".join(names[: depth + 1])
        if name not in sys.modules:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(root.joinpath(*names[1 : depth + 1]))]
    return importlib.import_module(f"{package}.{path}")


def openrlhf_rewards(url, rows):
    """What OpenRLHF's executor of single turns gets from a reward server for prompts and responses."""
    executor = module("openrlhf", "utils.agent").SingleTurnAgentExecutor(url)

    async def ask():
        asked = [
            executor._fetch_rewards_via_http([row["prompt"] + row["output"]], [row["prompt"]], [row["reference"]]) for row in rows
        ]
        return [answer[0]["rewards"][0] for answer in await asyncio.gather(*asked)]

    return asyncio.run(ask())


def verl_rewards(rows):
    """What verl's loader of reward functions gives for its configuration of a file and a name."""
    from omegaconf import OmegaConf

    # The loader alone: its module begins with what wants Ray.
    source = pathlib.Path(importlib.util.find_spec("verl").submodule_search_locations[0]) / "trainer/ppo/reward.py"
    text = source.read_text()
    begin, end = text.index("def _call_with_kwargs"), text.index("def resolve_reward_manager_cls")
    spec = importlib.util.spec_from_file_location("reward_function", serving.ROOT / "clients" / "polar_raw.py")

    def load_extern_object(module_path, object_name):
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return getattr(loaded, object_name)

    stand_in = types.ModuleType("verl.utils.import_utils")
    stand_in.load_extern_object = load_extern_object
    sys.modules["verl.utils.import_utils"] = stand_in
    space = {}
    imports = "import inspect; from functools import partial; from typing import *; from omegaconf import DictConfig; RawRewardFn = Any"
    exec(f"{imports}\n{text[begin:end]}", space)
    schema = OmegaConf.load(source.parent.parent / "config" / "reward" / "reward.yaml")
    dots = ["custom_reward_function.path=polar_raw.py", "custom_reward_function.name=compute_score"]
    OmegaConf.set_struct(schema, True)
    config = OmegaConf.create({"reward": OmegaConf.merge(schema, OmegaConf.from_dotlist(dots))})
    score = space["get_custom_reward_fn"](config)
    return [
        score(
            data_source="polar", solution_str=row["output"], ground_truth=row["reference"],
            extra_info={"prompt": row["prompt"], "num_turns": None, "rollout_reward_scores": {}},
        )
        for row in rows
    ]


def main():
    source = random.Random(9)
    rows = [
        {"prompt": serving.text(source, 5, 30), "reference": serving.text(source, 1, 20), "output": serving.text(source, 1, 20)}
        for _ in range(24)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        serving.model(folder)
        wanted = serving.direct(folder, rows)
        with serving.Server(folder) as server:
            serving.compare("OpenRLHF 0.11.2", openrlhf_rewards(server.url + "/get_reward", rows), wanted)
            os.environ["POLAR_RAW_URL"] = server.url
            serving.compare("verl 0.9.1", verl_rewards(rows), wanted)


if __name__ == "__main__":
    main()
