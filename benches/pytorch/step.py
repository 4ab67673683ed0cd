"""One optimiser step (forward, backward, clip, AdamW) of a Bradley-Terry reward model in PyTorch, f32, on the CPU.

Random sequences of one length, or the pairs {chosen_ids, rejected_ids} of a JSONL file, each batch padded to its
longest sequence. Prints one line of JSON: tokens and pairs a second (medians over the steps) and peak memory.
"""
import argparse
import json
import resource
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaModel

parser = argparse.ArgumentParser(description=__doc__)
for name, value in dict(hidden=256, layers=4, heads=4, kv=2, ff=688, vocab=4096, seq=512, pairs=4, steps=8, threads=2).items():
    parser.add_argument(f"--{name}", type=int, default=value)
parser.add_argument("--data", help="pairs of token ids, as JSONL; batches follow the order of the file")
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
model = LlamaModel(LlamaConfig(
    vocab_size=args.vocab, hidden_size=args.hidden, intermediate_size=args.ff, num_hidden_layers=args.layers,
    num_attention_heads=args.heads, num_key_value_heads=args.kv, attn_implementation="sdpa",
    max_position_embeddings=8192, use_cache=False))
head = torch.nn.Linear(args.hidden, 1, bias=False)
parameters = [*model.parameters(), *head.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), fused=True)


def batches():
    """Ids, attention mask (None if nothing is padded), last positions, number of real tokens."""
    if args.data is None:
        ids = torch.randint(3, args.vocab, (2 * args.pairs, args.seq))
        while True:
            yield ids, None, torch.full((2 * args.pairs,), args.seq - 1), ids.numel()
    with open(args.data) as file:
        rows = [json.loads(line) for line in file]
    while True:
        for start in range(0, len(rows) - args.pairs + 1, args.pairs):
            chunk = rows[start:start + args.pairs]
            sequences = [torch.tensor(row[key]) for key in ("chosen_ids", "rejected_ids") for row in chunk]
            last = torch.tensor([len(sequence) - 1 for sequence in sequences])
            ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=2)
            mask = torch.arange(ids.shape[1])[None, :] <= last[:, None]
            yield ids, mask, last, int((last + 1).sum())


def step(ids, mask, last):
    hidden = model(ids, attention_mask=mask).last_hidden_state[torch.arange(len(ids)), last]
    scores = head(hidden)[:, 0]
    loss = -torch.nn.functional.logsigmoid(scores[:args.pairs] - scores[args.pairs:]).mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


stream = batches()
for _ in range(3):
    step(*next(stream)[:3])
tokens, seconds = 0, []
for _ in range(args.steps):
    ids, mask, last, real = next(stream)
    start = time.perf_counter()
    step(ids, mask, last)
    seconds.append(time.perf_counter() - start)
    tokens += real
# Batches of real data differ in length, so rates are over all steps; of equal batches the median is steadier.
per_step = statistics.median(seconds) if args.data is None else sum(seconds) / args.steps
print(json.dumps(dict(
    parameters=sum(p.numel() for p in parameters), tokens_per_s=tokens / args.steps / per_step,
    pairs_per_s=args.pairs / per_step, peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    torch=torch.__version__)))
