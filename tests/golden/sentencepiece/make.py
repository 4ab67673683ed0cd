"""Writes the models and golden.json of this folder: what the package sentencepiece makes of some texts.

    python tests/golden/sentencepiece/make.py        (needs sentencepiece)

The texts and the training text are those of tools/compat/tokenizer_files.py, which compares far more of them.
"""

import importlib.util
import json
import pathlib

here = pathlib.Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("compat", here.parents[2] / "tools" / "compat" / "tokenizer_files.py")
compat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compat)

MODELS = {
    "plain": dict(),
    "prefix": dict(add_dummy_prefix=True),
    "trimmed": dict(add_dummy_prefix=True, remove_extra_whitespaces=True),
    "unknown": dict(byte_fallback=False, remove_extra_whitespaces=True),
}

golden = {}
for at, (name, options) in enumerate(MODELS.items()):
    model = compat.train(vocab_size=620 if options.get("byte_fallback", True) else 360, character_coverage=0.98, self_test_sample_size=0, **options)
    if name == "plain":
        model = compat.edited(model, compat.some_unused)
    (here / f"{name}.model").write_bytes(model)
    processor = compat.sentencepiece.SentencePieceProcessor(model_proto=model)
    texts = [text for text in compat.corpus(at, 90) if "[UNUSED_TOKEN_130]" not in text and "<|reward|>" not in text]
    golden[name] = [{"text": text, "ids": processor.encode(text), "decoded": processor.decode(processor.encode(text))} for text in texts if len(text) < 120]
(here / "golden.json").write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")).replace('{"text"', '\n{"text"') + "\n")
