"""TRL's GRPOTrainer, two steps of a tiny policy, with the server as its reward function: what it got is right."""
# requires: torch transformers==4.48.3 trl==0.16.1 datasets==3.2.0 accelerate==1.2.1 safetensors tokenizers

import pathlib
import random
import sys
import tempfile

import serving

sys.path.insert(0, str(serving.ROOT / "clients"))

from datasets import Dataset  # noqa: E402
from polar_raw import trl_reward  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        serving.model(folder)
        with serving.Server(folder) as server:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
            policy = LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                num_attention_heads=2, num_key_value_heads=1, bos_token_id=1, eos_token_id=2, pad_token_id=2,
            )
            source = random.Random(1)
            rows = [{"prompt": serving.text(source, 3, 8), "reference": serving.text(source, 3, 8)} for _ in range(8)]
            reward, seen = trl_reward(server.url), []

            def noted(prompts, completions, **columns):
                scores = reward(prompts=prompts, completions=completions, **columns)
                texts = zip(prompts, columns["reference"], completions)
                seen.append(([dict(zip(("prompt", "reference", "output"), row)) for row in texts], scores))
                return scores

            arguments = GRPOConfig(
                output_dir=str(folder / "out"), per_device_train_batch_size=4, num_generations=4,
                max_completion_length=8, max_steps=2, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
            )
            GRPOTrainer(
                model=LlamaForCausalLM(policy), reward_funcs=noted, args=arguments,
                train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
            ).train()
            assert len(seen) >= 2, seen
            for step, (rows, scores) in enumerate(seen):
                serving.compare(f"rewards of step {step + 1}", scores, serving.direct(folder, rows))


if __name__ == "__main__":
    main()
