"""Makes the folders beside it: pip install torch transformers peft safetensors, then python make.py. Takes seconds.

Each is an adapter of PEFT, with random factors and a random head, beside the reward model of the same name in
../families: what PEFT's model computes with it in float32 on the CPU, the gradients of what is trained, and adapter and
head after ten steps of AdamW, both under the names of PEFT's own file.

llama3: all seven projections, a scale that is no power of two.
qwen3: queries, keys, values and the down projection, a scale that no float is.
"""

import json
import os
import pathlib

# As the C library computes powers: see tests/golden/rotary.
os.environ["ATEN_CPU_CAPABILITY"] = "default"
import peft
import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
FAMILIES = HERE.parent / "families"
OPTIMIZER = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)


def score(model, ids):
    """Of the last token, whatever it is: transformers looks for the last that is no padding."""
    inner = model.base_model.model
    return inner.score(inner.model(torch.tensor([ids])).last_hidden_state)[0, -1, 0]


def own_file(model, tensors):
    """`tensors`, by the names of the model's parameters, under those of PEFT's file."""
    state = {name: tensors[name] for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: value.contiguous() for name, value in peft.get_peft_model_state_dict(model, state).items()}


def make(name, rank, alpha, targets):
    generator = torch.Generator().manual_seed(len(name))
    base = transformers.AutoModelForSequenceClassification.from_pretrained(FAMILIES / name, num_labels=1)
    settings = peft.LoraConfig(
        task_type="SEQ_CLS", r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=targets, modules_to_save=["score"]
    )
    model = peft.get_peft_model(base.float(), settings).eval()
    model.peft_config["default"].base_model_name_or_path = f"tests/golden/families/{name}"
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
    folder = HERE / name
    model.save_pretrained(folder)
    (folder / "README.md").unlink()

    rows = json.loads((FAMILIES / name / "golden.json").read_text())["pairs"]
    def step():
        model.zero_grad()
        differences = [score(model, row["chosen"]) - score(model, row["rejected"]) for row in rows]
        loss = -torch.nn.functional.logsigmoid(torch.stack(differences)).mean()
        loss.backward()
        return dict(loss=loss.item(), grad_norm=torch.nn.utils.get_total_norm([p.grad for p in trained]).item())

    first = step()
    scores = [{side: score(model, row[side]).item() for side in ("chosen", "rejected")} for row in rows]
    gradients = {parameter: p.grad.clone() for parameter, p in model.named_parameters() if p.requires_grad}
    save_file(own_file(model, gradients), folder / "grads.safetensors")
    optimizer, training = torch.optim.AdamW(trained, **OPTIMIZER), []
    for _ in range(10):
        training.append(step())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    save_file(own_file(model, dict(model.named_parameters())), folder / "trained.safetensors")
    golden = dict(
        about=f"PEFT {peft.__version__}, PyTorch {torch.__version__}, transformers {transformers.__version__}, float32 on the CPU",
        pairs=rows, scores=scores, **first, optimizer=OPTIMIZER | dict(clip_grad_norm=1.0), training=training,
    )  # fmt: skip
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    print(name, first, scores[:2], training[-1])


make("llama3", 4, 6, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
make("qwen3", 3, 2, ["q_proj", "k_proj", "v_proj", "down_proj"])
