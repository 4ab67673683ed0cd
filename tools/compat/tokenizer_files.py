# requires: sentencepiece protobuf tokenizers
"""Tokenizers against the programs that they were made with: ids and decoded text, line by line.

A SentencePiece BPE is trained with InternLM2's settings (byte fallback, single digits, no normalisation, control and
user-defined pieces), in several variants, and `polar-raw tokenize` is compared with the package `sentencepiece`; then
`tokenizer.json` files of several kinds with the package `tokenizers`. The corpus is made from a seed.
"""

import argparse
import io
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2 as proto

WORDS = """the of and to in is that for it as was with be by on not he his but at are this have from or had an they which
one you were all her she there would their we him been has when who will no more if out so up said what its about than
into them can only other time new some could these two may first then do any like my now over such our man me even most
made after also did many off before must well back through years where much your way down should because long each just
state those people too mr how little good world make very year still see own work men day get here old life both between
being under three never know same last another while us might great go come since against right came take used himself
few house use place without American around however home small found thought went say part once general high upon school
every don't does got united left number course war until always something fact public less water Natürlich Straße über
café naïve señor garçon données réponse функция задача решение привет мир данные слово вопрос ответ пример число ответить
这是 一个 问题 答案 计算 结果 模型 奖励 学习 数据 语言 所以 因此 我们 こんにちは 世界 です ます 計算 結果 안녕하세요 세계 모델 데이터
مرحبا العالم نموذج سؤال שלום עולם मॉडल प्रश्न उत्तर สวัสดี โลก def return import for while print self None True False lambda
const let function async await => == != <= >= && || ++ -- // /* */ #include <stdio.h> std::vector int64_t x_1 \\frac{a}{b}
\\sum_{i=0}^n \\alpha 3.14159 1,000,000 2024-01-01 12:30 42% $5.99 #### http://example.com/a?b=c&d=e user@example.com""".split()
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u3000", "\u2003", "\u200b", " \t ", "\u2581", "\u2581\u2581", "        ", "\v", "\f", "\u0085", "\u2028"]
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🇩🇪", "❤️", "🏳️‍🌈", "🤦🏿‍♂️", "🫠", "1️⃣", "e\u0301", "a\u0308\u0323", "ﬁ", "Å", "\u212b", "한", "\u1112\u1161\u11ab"]
SPELLINGS = ["<s>", "</s>", "<unk>", "<pad>", "<0x41>", "<0x0A>", "<|im_start|>", "<|im_end|>", "<|reward|>", "<|endoftext|>",
             "[UNUSED_TOKEN_0]", "[UNUSED_TOKEN_13]", "[UNUSED_TOKEN_1", "[UNUSED_TOKEN_130]", "<|", "|>", "<tool>", "<tool", " \u2047 ", "\u2047"]
PLANES = [(0, 0x7F), (0, 0x1F), (0x80, 0x24F), (0x250, 0x1FFF), (0x2000, 0x2BFF), (0x3000, 0x9FFF), (0xA000, 0xD7FF),
          (0xE000, 0xFFFF), (0x10000, 0x1FFFF), (0x20000, 0x3FFFF), (0xE0000, 0xE01EF), (0xF0000, 0x10FFFF)]


def any_character(rng):
    return chr(rng.randint(*rng.choice(PLANES)))


def line(rng):
    """A text: prose, spaces, spellings of special tokens and characters of every plane, in a mixture of its own."""
    parts = []
    weights = [rng.random() ** 2 for _ in range(6)]
    for _ in range(rng.choice([0, 1, 2, 4, 8, 16, 30, 60])):
        kind = rng.choices(range(6), weights)[0]
        if kind == 0:
            parts.append(rng.choice(WORDS) + rng.choice([" ", " ", " ", ", ", ". ", "\n", ""]))
        elif kind == 1:
            parts.append(rng.choice(SPACES) * rng.choice([1, 1, 2, 5]))
        elif kind == 2:
            parts.append(rng.choice(SPELLINGS))
        elif kind == 3:
            parts.append("".join(any_character(rng) for _ in range(rng.randint(1, 6))))
        elif kind == 4:
            parts.append(rng.choice(EMOJI) * rng.choice([1, 1, 3]))
        else:
            parts.append(rng.choice([str(rng.randint(0, 10**9)), "a" * rng.randint(1, 90), "=" * rng.randint(1, 40), rng.choice("aąbцд漢字") * rng.randint(1, 5)]))
    return "".join(parts)


def corpus(seed, lines):
    rng = random.Random(seed)
    fixed = ["", " ", "  ", "\n", "\u2581", "\0", "<s>", "a", " a", "a ", "  a  b  "]
    return fixed + [line(rng) for _ in range(lines - len(fixed))]


def training_text(seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 25))) for _ in range(6000)]


def train(**options):
    """A model of InternLM2's kind: byte fallback, single digits, identity normalisation, spare pieces at the end."""
    model = io.BytesIO()
    settings = dict(
        model_type="bpe", vocab_size=1500, byte_fallback=True, split_digits=True, normalization_rule_name="identity",
        add_dummy_prefix=False, remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, character_coverage=0.999,
        user_defined_symbols=[f"[UNUSED_TOKEN_{n}]" for n in range(20)] + ["<tool>"], control_symbols=["<|im_start|>", "<|im_end|>"],
        minloglevel=2, num_threads=2,
    )
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(training_text(1)), model_writer=model, **(settings | options))
    return model.getvalue()


def edited(model, change):
    parsed = proto.ModelProto.FromString(model)
    change(parsed)
    return parsed.SerializeToString()


def some_unused(model):
    rng = random.Random(3)
    for piece in model.pieces:
        if piece.type == piece.NORMAL and rng.random() < 0.2:
            piece.type = piece.UNUSED


def equal_scores(model):
    for piece in model.pieces:
        piece.score = round(piece.score / 50)


def polar_raw(program, arguments):
    done = subprocess.run([program, "tokenize", *map(str, arguments)], capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}: {done.stderr.decode()}")


def ours(program, model, folder, rows, decode=False):
    """The rows that `polar-raw tokenize` gives, and its seconds."""
    source, target = folder / "rows.jsonl", folder / "answer.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    start = time.perf_counter()
    polar_raw(program, ["--model", model, "--input", source, "--output", target] + ["--decode"] * decode)
    seconds = time.perf_counter() - start
    # Not splitlines(), which takes U+2028 for a line end.
    answers = [json.loads(row) for row in target.read_text(encoding="utf-8").split("\n") if row]
    return [row["text" if decode else "ids"] for row in answers], seconds


def compare(name, texts, right, got, show):
    wrong = [at for at, (a, b) in enumerate(zip(right, got, strict=True)) if a != b]
    for at in wrong[:3]:
        print(f"  {name}, line {at}: {texts[at]!r}\n    theirs {show(right[at])}\n    ours   {show(got[at])}")
    return len(wrong)


def sentencepiece_case(name, model, texts, program, config=None):
    """Ids and decoding of one model; returns the number of lines that differ."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        (folder / "tokenizer.model").write_bytes(model)
        if config is not None:
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
        # What polar-raw keeps out of text is, for the package, a control piece.
        taken = {"<|reward|>", "[UNUSED_TOKEN_130]"}
        def reserve(parsed):
            for at, token in (config or {}).get("added_tokens_decoder", {}).items():
                piece = parsed.pieces[int(at)]
                piece.piece, piece.type = token["content"], piece.CONTROL if token["special"] else piece.USER_DEFINED
            for piece in parsed.pieces:
                if piece.piece in taken:
                    piece.type = piece.CONTROL
        theirs = sentencepiece.SentencePieceProcessor(model_proto=edited(model, reserve))
        start = time.perf_counter()
        right = [theirs.encode(text) for text in texts]
        their_seconds = time.perf_counter() - start
        got, _ = ours(program, folder, folder, texts)
        wrong = compare(f"{name}: ids", texts, right, got, list)
        # Decoding: what was encoded, and ids in any order.
        rng = random.Random(5)
        shuffled = right[: len(right) // 2] + [rng.choices(range(theirs.vocab_size()), k=rng.randint(0, 12)) for _ in right[len(right) // 2 :]]
        got, _ = ours(program, folder, folder, shuffled, decode=True)
        wrong += compare(f"{name}: text", shuffled, [theirs.decode(ids) for ids in shuffled], got, repr)
    ids = sum(map(len, right))
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{name:44} {len(texts)} lines, {ids} ids, {len(shuffled)} decoded: {wrong} differ; sentencepiece {megabytes / their_seconds:.1f} MB/s", flush=True)
    return wrong


def byte_level(digits):
    """GPT-2's kind of tokenizer, or SmolLM2's with single digits, trained with the package `tokenizers`."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    if digits:
        split = tokenizers.pre_tokenizers.Sequence([tokenizers.pre_tokenizers.Digits(individual_digits=True), split])
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2400, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(training_text(2), trainer)
    return tokenizer


def qwen2():
    """Qwen2's kind: form C, its own split, byte-level without GPT-2's."""
    tokenizer = byte_level(False)
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return tokenizer


def json_case(name, theirs, texts, program):
    """A `tokenizer.json`, with the spellings of special tokens taken as text."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        theirs.save(str(folder / "tokenizer.json"))
        theirs.encode_special_tokens = True
        start = time.perf_counter()
        right = [theirs.encode(text, add_special_tokens=False).ids for text in texts]
        their_seconds = time.perf_counter() - start
        got, seconds = ours(program, folder, folder, texts)
        wrong = compare(f"{name}: ids", texts, right, got, list)
        got, _ = ours(program, folder, folder, right, decode=True)
        wrong += compare(f"{name}: text", texts, [theirs.decode(ids) for ids in right], got, repr)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{name:44} {len(texts)} lines, {sum(map(len, right))} ids, {len(right)} decoded: {wrong} differ; tokenizers {megabytes / their_seconds:.1f} MB/s", flush=True)
    return wrong


def speed(model, program):
    """Megabytes a second on prose, of the whole program and of the package in a loop."""
    texts = [" ".join(random.Random(seed).choices(WORDS, k=400)) for seed in range(8000)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        (folder / "tokenizer.model").write_bytes(model)
        _, nothing = ours(program, folder, folder, texts[:1])
        _, seconds = ours(program, folder, folder, texts)
        theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
        start = time.perf_counter()
        for text in texts:
            theirs.encode(text)
        their_seconds = time.perf_counter() - start
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"speed on {megabytes:.0f} MB of prose, one thread, JSON in and out included: polar-raw {megabytes / (seconds - nothing):.1f} MB/s, "
          f"sentencepiece (from Python) {megabytes / their_seconds:.1f} MB/s")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--lines", type=int, default=100_000, help="lines for the first model of each kind; a fifth for its variants")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--program", default="target/release/polar-raw")
    given = arguments.parse_args()
    texts = corpus(given.seed, given.lines)
    some = corpus(given.seed + 1, max(given.lines // 5, 20))
    print(f"sentencepiece {sentencepiece.__version__}, tokenizers {tokenizers.__version__}; {sum(map(len, texts))} characters in {len(texts)} lines")
    plain = train()
    added = {"added_tokens_decoder": {
        "5": {"content": "<|reward|>", "special": True}, "6": {"content": "<tool2>", "special": False}}}
    cases = [
        ("InternLM2's settings", plain, texts, None),
        ("with a dummy prefix", train(add_dummy_prefix=True), texts, None),
        ("extra spaces removed", train(remove_extra_whitespaces=True), some, None),
        ("both", train(add_dummy_prefix=True, remove_extra_whitespaces=True), some, None),
        ("pieces across words", train(split_by_whitespace=False, add_dummy_prefix=True), some, None),
        ("pieces of any script", train(split_by_unicode_script=False, split_by_number=False), some, None),
        ("no byte fallback", train(byte_fallback=False, vocab_size=1200, add_dummy_prefix=True), some, None),
        ("user-defined pieces with spaces", train(user_defined_symbols=["the of", "▁a", " ", "ab", "a", "abc"], remove_extra_whitespaces=True), some, None),
        ("no escaped spaces", edited(plain, lambda model: setattr(model.normalizer_spec, "escape_whitespaces", False)), some, None),
        ("unused pieces", edited(plain, some_unused), some, None),
        ("unused pieces, no byte fallback", edited(train(byte_fallback=False, vocab_size=1200), some_unused), some, None),
        ("equal scores", edited(plain, equal_scores), some, None),
        ("added tokens in a tokenizer_config.json", plain, some, added),
    ]
    wrong = sum(sentencepiece_case(name, model, lines, given.program, config) for name, model, lines, config in cases)
    kinds = [("tokenizer.json of GPT-2's kind", byte_level(False), texts), ("tokenizer.json of SmolLM2's kind", byte_level(True), some),
             ("tokenizer.json of Qwen2's kind", qwen2(), some)]
    wrong += sum(json_case(name, theirs, lines, given.program) for name, theirs, lines in kinds)
    speed(plain, given.program)
    print("all the same" if not wrong else f"{wrong} lines differ")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
