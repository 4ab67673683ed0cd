"""Rewards from a running `polar-raw serve`, for TRL, verl and OpenRLHF. Needs nothing but Python 3.9 or newer:
`pip install ./clients` in a checkout of polar-raw, or copy this file.

Higher is better: closer to whoever wrote the reference. Scores have no unit and no bounds (of POLAR's models +0.5 to -11
is usual), and only those of the same prompt and reference can be compared. GRPO and its relatives compare within such a
group anyway and take them as they are. What does not, as PPO, wants them normalised: `normalise="z-score"`, `"rank"` or
`"reference"` within the group, or `"running"` against all scores so far. Do not clamp raw scores to [-1, 1]: most lie
below -1, and would all be the same.

TRL. The data set has a column `reference` (another name: `column=`):

    from polar_raw import trl_reward
    trainer = GRPOTrainer(model=..., reward_funcs=trl_reward("http://127.0.0.1:30000"), train_dataset=..., args=...)

verl. POLAR_RAW_URL (and POLAR_RAW_KEY, if the server wants one, POLAR_RAW_NORMALISE, if scores are to be normalised) in
the environment of the workers. `ground_truth` is the reference and `extra_info["prompt"]` the prompt, as in POLAR's own
parquet files. Of a response that thinks, what follows its first <think>...</think> is scored, as by POLAR's own function:

    reward.custom_reward_function.path=polar_raw.py reward.custom_reward_function.name=compute_score

and before verl 0.9, where a reward manager `batch` gives many responses at a time:

    custom_reward_function.path=polar_raw.py custom_reward_function.name=compute_score_batch reward_model.reward_manager=batch

OpenRLHF needs no client: `--reward.remote_url http://127.0.0.1:30000/get_reward`.

Anything else:

    from polar_raw import Client
    Client("http://127.0.0.1:30000").score([(prompt, reference, candidate), ...])

Texts are strings or lists of messages {"role", "content"}, whose contents are joined by newlines. A content is a string or
a list of parts {"type": "text", "text"}, which are joined as they are.
"""

import http.client
import ipaddress
import json
import math
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

__all__ = ["Client", "PolarRawError", "Running", "compute_score", "compute_score_batch", "trl_reward"]

# What the server makes of the scores of one prompt and reference.
_WITHIN_GROUPS = ("z-score", "rank", "reference")


class PolarRawError(RuntimeError):
    """The server refused a request, or did not answer however often it was asked."""


class Running:
    """Mean and deviation of all values so far (Welford's algorithm); to be shared by threads."""

    def __init__(self):
        self.count, self.mean, self._squares, self._lock = 0, 0.0, 0.0, threading.Lock()

    @property
    def deviation(self):
        """Of a population; 0 before the second value."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0

    def __call__(self, values):
        """Takes `values` in, all of them, and then gives (value - mean) / deviation of each; 0 while all are equal."""
        values = list(values)
        with self._lock:
            for value in values:
                self.count += 1
                delta = value - self.mean
                self.mean += delta / self.count
                self._squares += delta * (value - self.mean)
            deviation = self.deviation
            return [(value - self.mean) / deviation if deviation else 0.0 for value in values]


class Client:
    """A server. Requests are sent again while it is busy or starting, and raise an error where that does not help."""

    def __init__(self, url="http://127.0.0.1:30000", key=None, timeout=600.0, retries=30, connections=16, normalise=None):
        """`timeout` is for one answer, in seconds; `connections` requests are under way at a time. `normalise` is None
        (raw scores), "z-score", "rank" or "reference", as in `polar-raw score --normalise`, or "running"."""
        if normalise not in (None, "running", *_WITHIN_GROUPS):
            choices = ", ".join(map(repr, ("running", *_WITHIN_GROUPS)))
            raise PolarRawError(f"normalise is {normalise!r}, and can be None, {choices}")
        self.url, self.key, self.timeout, self.retries, self.connections = url, key, timeout, retries, connections
        self.normalise, self.running = normalise, Running()
        # A proxy of the environment reaches other machines and not this one.
        handlers = [urllib.request.ProxyHandler({})] if _is_loopback(url) else []
        self._opener = urllib.request.build_opener(*handlers)

    def score(self, rows):
        """Scores of rows (prompt, reference, candidate), in order. What shares prompt and reference is one request,
        and the server computes the shared part once."""
        groups = {}
        for index, (prompt, reference, candidate) in enumerate(rows):
            try:
                prompt, reference, candidate = _text(prompt), _text(reference), _text(candidate)
            except PolarRawError as error:
                raise PolarRawError(f"row {index}: {error}") from None
            groups.setdefault((prompt, reference), []).append((index, candidate))
        scores = [0.0] * sum(map(len, groups.values()))
        within = self.normalise if self.normalise in _WITHIN_GROUPS else None
        if within in ("z-score", "rank"):
            alone = next((members[0][0] for members in groups.values() if len(members) == 1), None)
            if alone is not None:
                raise PolarRawError(
                    f"row {alone} is the only one of its prompt and reference, and {within!r} compares within such a group: "
                    'give several candidates of each prompt, or normalise by "reference" or "running"'
                )

        def ask(group):
            (prompt, reference), members = group
            body = {"prompt": prompt, "reference": reference, "candidates": [text for _, text in members]}
            if within:
                body["normalise"] = within
            for (index, _), entry in zip(members, self._post("/v1/score", body)["data"]):
                scores[index] = entry["normalised" if within else "score"]

        with ThreadPoolExecutor(self.connections) as pool:
            list(pool.map(ask, groups.items()))
        return self.running(scores) if self.normalise == "running" else scores

    def _post(self, path, body):
        request = urllib.request.Request(self.url.rstrip("/") + path, json.dumps(body).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        for attempt in range(self.retries + 1):
            wait = min(0.1 * 2**attempt, 5.0)
            try:
                with self._opener.open(request, timeout=self.timeout) as answer:
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
    prompts = [_prompt(info) for info in extra_infos]
    return _of_environment().score(zip(prompts, ground_truths, map(_answer, solution_strs)))


_clients, _clients_lock = {}, threading.Lock()


def _of_environment():
    """The client that the environment describes, made once: what is normalised by all scores so far has to know them."""
    found = tuple(os.environ.get(name) or None for name in ("POLAR_RAW_URL", "POLAR_RAW_KEY", "POLAR_RAW_NORMALISE"))
    with _clients_lock:
        if found not in _clients:
            url, key, normalise = found
            _clients[found] = Client(url or "http://127.0.0.1:30000", key, normalise=normalise)
        return _clients[found]


def _is_loopback(url):
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


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
    if value is None or isinstance(value, (bytes, dict)) or not hasattr(value, "__iter__"):
        raise PolarRawError(f"expected a text or a list of messages, found {_kind(value)}")
    return "\n".join(_content(message, index) for index, message in enumerate(value))


def _content(message, index):
    """The text of one message."""
    if not isinstance(message, dict) or "content" not in message:
        raise PolarRawError(f'message {index} is {_kind(message)} without a "content"')
    content = message["content"]
    if isinstance(content, str):
        return content
    if content is None or isinstance(content, (bytes, dict)) or not hasattr(content, "__iter__"):
        raise PolarRawError(f"the content of message {index} is {_kind(content)}: expected a text or a list of parts")
    return "".join(_part(part, f"part {place} of message {index}") for place, part in enumerate(content))


def _part(part, place):
    """The text of one part of a content."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise PolarRawError(f"{place} is {_kind(part)} of the type {kind!r}: only texts can be scored")
    if not isinstance(part.get("text"), str):
        raise PolarRawError(f'{place}: its "text" is {_kind(part.get("text"))}')
    return part["text"]


def _kind(value):
    names = {"NoneType": "null", "dict": "an object", "int": "a number", "float": "a number", "list": "a list", "str": "a text"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")


def _message(error):
    try:
        return f"{error.code}: {json.load(error)['error']['message']}"
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        return f"{error.code} {error.reason}"
