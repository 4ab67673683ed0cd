"""clients/ as a package: the wheel, installed into an environment that has nothing else, and what needs no server."""

import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHECK = """
import math, os, random, statistics, threading, http.server, json
import polar_raw
from importlib.metadata import requires, version

assert version("polar-raw-client") == WORKSPACE, (version("polar-raw-client"), WORKSPACE)
assert not requires("polar-raw-client")

# Contents.
text = polar_raw._text
assert text("a") == "a"
assert text([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]) == "a\\nb"
parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
assert text([{"role": "user", "content": parts}, {"role": "user", "content": "c"}]) == "ab\\nc"

def refused(value, *words):
    try:
        polar_raw.Client().score([("p", "r", "c"), (value, "r", "c")])
    except polar_raw.PolarRawError as error:
        assert all(word in str(error) for word in words), error
    else:
        raise SystemExit(f"{value!r} was taken")

refused(None, "row 1", "null")
refused([{"role": "user", "content": None}], "row 1", "message 0", "null")
refused([{"role": "user"}], "message 0", "content")
refused(["a"], "message 0", "a text")
refused([{"content": [parts[0], {"type": "image_url", "image_url": {}}]}], "part 1 of message 0", "image_url")
refused([{"content": [{"type": "text", "text": 3}]}], "part 0", "a number")
refused(3, "a number")

# Running normalisation is that of all values so far.
values = [random.gauss(-4, 3) for _ in range(1000)]
running, seen = polar_raw.Running(), []
for start in range(0, 1000, 50):
    found = running(values[start:start + 50])
    seen += values[start:start + 50]
    mean, deviation = statistics.fmean(seen), statistics.pstdev(seen)
    assert all(math.isclose(f, (v - mean) / deviation, abs_tol=1e-9) for f, v in zip(found, seen[start:]))
assert polar_raw.Running()([2.0, 2.0]) == [0.0, 0.0]

try:
    polar_raw.Client(normalise="clamp")
except polar_raw.PolarRawError as error:
    assert "z-score" in str(error)
else:
    raise SystemExit("an unknown normalisation was taken")

# A proxy that does not exist is not asked for this machine.
class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        data = [{"score": -1.0 - i, "normalised": 0.25 * i} for i in range(len(body["candidates"]))]
        assert body.get("normalise") in (None, "rank"), body
        answer = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ |= {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "no_proxy": ""}
port = server.server_address[1]
for url in (f"http://127.0.0.1:{port}", f"http://localhost:{port}/"):
    assert polar_raw.Client(url, retries=0).score([("p", "r", "a"), ("p", "r", "b")]) == [-1.0, -2.0]
ranked = polar_raw.Client(f"http://127.0.0.1:{port}", retries=0, normalise="rank")
assert ranked.score([("p", "r", "a"), ("p", "r", "b")]) == [0.0, 0.25]
try:
    ranked.score([("p", "r", "a"), ("p", "r", "b"), ("q", "r", "a")])
except polar_raw.PolarRawError as error:
    assert "row 2" in str(error) and "running" in str(error), error
else:
    raise SystemExit("a group of one was ranked")

# verl: one client for all calls, or what is running would begin anew with each.
os.environ |= {"POLAR_RAW_URL": f"http://127.0.0.1:{port}", "POLAR_RAW_NORMALISE": "running"}
info = {"prompt": "p"}
assert polar_raw.compute_score("polar", "a", "r", info) == 0.0
assert polar_raw.compute_score_batch(["polar"] * 2, ["a", "b"], ["r"] * 2, [info] * 2)[1] < 0
assert polar_raw._of_environment().running.count == 3
print("the client is what its text says")
"""


def main():
    workspace = next(line for line in (ROOT / "Cargo.toml").read_text().splitlines() if line.startswith("version = "))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        python = folder / "venv" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", ROOT / "clients"], check=True)
        # From another folder, so that it is the installed module.
        subprocess.run([python, "-c", CHECK.replace("WORKSPACE", repr(workspace.split('"')[1]))], check=True, cwd=folder)


if __name__ == "__main__":
    main()
