"""The OpenAPI document is valid, and the running server does what it says.

openapi-spec-validator checks the document against OpenAPI 3.1. schemathesis then makes requests of the document's
schemas, right ones and wrong ones, and checks status, content type and body of each answer against the document.
"""
# requires: schemathesis==4.32.5 openapi-spec-validator torch safetensors tokenizers

import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

import openapi_spec_validator
import serving

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        serving.model(folder)
        with serving.Server(folder) as server:
            with urllib.request.urlopen(f"{server.url}/openapi.json") as answer:
                document = json.load(answer)
            openapi_spec_validator.validate(document)
            print(f"openapi-spec-validator: valid, {len(document['paths'])} paths")

            # What generated requests hardly ever are: right. Their answers against the document's schemas.
            import jsonschema

            encoded = "a\nb<|reward|>a\nc[UNUSED_TOKEN_130]"
            right = {
                "/v1/score": {"prompt": "a", "reference": "b", "candidates": ["c", "d"], "normalise": "rank"},
                "/classify": {"text": [encoded]}, "/sglang/classify": {"text": encoded}, "/vllm/classify": {"input": encoded},
                "/pooling": {"input": encoded}, "/vllm/pooling": {"input": [encoded]}, "/lmdeploy/pooling": {"input": encoded},
                "/get_reward": {"query": ["ac"], "prompts": ["a"], "labels": ["b"]},
                "/reward": {"prompt": "a", "response": "c", "label": "b"},
            }
            posts = {path for path, item in document["paths"].items() if "post" in item}
            assert posts == set(right), posts ^ set(right)
            for path, body in right.items():
                operation = document["paths"][path]["post"]
                schemas = {"components": document["components"]}
                request = operation["requestBody"]["content"]["application/json"]["schema"]
                reply = operation["responses"]["200"]["content"]["application/json"]["schema"]
                jsonschema.validate(body, request | schemas)
                post = urllib.request.Request(server.url + path, json.dumps(body).encode())
                with urllib.request.urlopen(post) as answer:
                    jsonschema.validate(json.load(answer), reply | schemas)
            print(f"jsonschema: a right request to each of {len(right)} paths, and its answer, are as described")

            program = str(pathlib.Path(sys.executable).parent / "schemathesis")
            command = [program, "run", f"{server.url}/openapi.json", "--checks", CHECKS, "--max-examples", "60",
                       "--phases", "examples,coverage,fuzzing", "--generation-deterministic", "--workers", "2", "--no-color"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            print("\n".join(done.stdout.splitlines()[-40:]))
            if done.returncode:
                sys.exit(f"schemathesis: status {done.returncode}\n{done.stderr}")


if __name__ == "__main__":
    main()
