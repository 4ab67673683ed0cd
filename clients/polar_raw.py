"""Rewards from a running `polar-raw serve`, for TRL and verl. Needs nothing but Python 3.9 or newer: copy this file.

Higher is better: closer to whoever wrote the reference. Scores have no unit and no bounds, and only those of the same
prompt and reference can be compared; GRPO and its relatives compare within such a group anyway.

TRL. The data set has a column `reference` (another name: `column=`):

    from polar_raw import trl_reward
    trainer = GRPOTrainer(model=..., reward_funcs=trl_reward("http://127.0.0.1:30000"), train_dataset=..., args=...)

verl. POLAR_RAW_URL (and POLAR_RAW_KEY, if the server wants one) in the environment of the workers. `ground_truth` is
the reference and `extra_info["prompt"]` the prompt, as in POLAR's own parquet files. Of a response that thinks, what
follows its first <think>...</think> is scored, as by POLAR's own function:

    custom_reward_function.path=polar_raw.py custom_reward_function.name=compute_score
    custom_reward_function.path=polar_raw.py custom_reward_function.name=compute_score_batch reward_model.reward_manager=batch

Anything else:

    from polar_raw import Client
    Client("http://127.0.0.1:30000").score([(prompt, reference, candidate), ...])

Texts are strings or lists of messages {"role", "content"}, whose contents are joined by newlines.
"""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

__all__ = ["Client", "PolarRawError", "compute_score", "compute_score_batch", "trl_reward"]


class PolarRawError(RuntimeError):
    """The server refused a request, or did not answer however often it was asked."""


class Client:
    """A server. Requests are sent again while it is busy or starting, and raise an error where that does not help."""

    def __init__(self, url="http://127.0.0.1:30000", key=None, timeout=600.0, retries=30, connections=16):
        """`timeout` is for one answer, in seconds; `connections` requests are under way at a time."""
        self.url, self.key, self.timeout, self.retries, self.connections = url, key, timeout, retries, connections

    def score(self, rows):
        """Scores of rows (prompt, reference, candidate), in order. What shares prompt and reference is one request,
        and the server computes the shared part once."""
        groups = {}
        for index, (prompt, reference, candidate) in enumerate(rows):
            prompt, reference, candidate = _text(prompt), _text(reference), _text(candidate)
            groups.setdefault((prompt, reference), []).append((index, candidate))
        scores = [0.0] * sum(map(len, groups.values()))

        def ask(group):
            (prompt, reference), members = group
            body = {"prompt": prompt, "reference": reference, "candidates": [text for _, text in members]}
            for (index, _), entry in zip(members, self._post("/v1/score", body)["data"]):
                scores[index] = entry["score"]

        with ThreadPoolExecutor(self.connections) as pool:
            list(pool.map(ask, groups.items()))
        return scores

    def _post(self, path, body):
        request = urllib.request.Request(self.url.rstrip("/") + path, json.dumps(body).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        for attempt in range(self.retries + 1):
            wait = min(0.1 * 2**attempt, 5.0)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                problem = _message(error)
                if error.code not in (408, 429, 503):
                    raise PolarRawError(f"{self.url}{path}: {problem}") from error
                wait = max(wait, float(error.headers.get("Retry-After") or 0))
            except (OSError, http.client.HTTPException, ValueError) as error:
                # An answer that was cut short is no JSON.
                problem = str(error)
            if attempt < self.retries:
                time.sleep(wait)
        raise PolarRawError(f"{self.url}{path}: asked {self.retries + 1} times: {problem}")


def trl_reward(url="http://127.0.0.1:30000", column="reference", **options):
    """A reward function for TRL's trainers; `options` are those of `Client`."""
    client = Client(url, **options)

    def polar_raw(prompts, completions, **columns):
        if column not in columns:
            raise PolarRawError(f"the data set has no column {column!r}; its columns are {sorted(columns)}")
        return client.score(zip(prompts, columns[column], completions))

    return polar_raw


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    """verl's reward of one response."""
    return compute_score_batch([data_source], [solution_str], [ground_truth], [extra_info])[0]


def compute_score_batch(data_sources, solution_strs, ground_truths, extra_infos, **_):
    """verl's rewards of a batch, for the reward manager `batch`: many times faster than one by one.

    As in POLAR's own function a response that thinks is what follows its first <think>...</think>, stripped."""
    client = Client(os.environ.get("POLAR_RAW_URL", "http://127.0.0.1:30000"), os.environ.get("POLAR_RAW_KEY"))
    prompts = [_prompt(info) for info in extra_infos]
    return client.score(zip(prompts, ground_truths, map(_answer, solution_strs)))


def _prompt(info):
    if not info or info.get("prompt") is None:
        raise PolarRawError('extra_info has no "prompt": put the prompt there when you write the parquet file')
    return info["prompt"]


def _answer(response):
    """What follows the thoughts; all of it where there are none, or no end of them."""
    _, _, rest = response.partition("<think>")
    _, end, answer = rest.partition("</think>")
    return answer.strip() if end else response


def _text(value):
    """A string, or messages in any kind of list: parquet files give arrays."""
    if isinstance(value, str):
        return value
    return "\n".join(message["content"] for message in value)


def _message(error):
    try:
        return f"{error.code}: {json.load(error)['error']['message']}"
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        return f"{error.code} {error.reason}"
