"""Makes the files in this folder: pip install torch gguf safetensors numpy, then python make.py."""

import collections
import os
import pathlib

import gguf
import numpy
import torch
from safetensors.numpy import save_file

here = pathlib.Path(__file__).parent
torch.manual_seed(1)
matrix = torch.randn(3, 5)
state = collections.OrderedDict(
    f32=matrix,
    f16=torch.randn(2, 3).half(),
    bf16=torch.randn(7).bfloat16(),
    scalar=torch.tensor(2.5),
    shared=matrix,
    window=matrix[1:, 2:4],
    transposed=matrix.t(),
    parameter=torch.nn.Parameter(torch.randn(2, 2)),
    integers=torch.arange(4),
)
module = torch.nn.Linear(2, 3)
state.update({f"linear.{name}": value for name, value in module.state_dict().items()})
torch.save(state, here / "torch.bin")
torch.save(dict(state), here / "torch_protocol4.bin", pickle_protocol=4)
torch.save(module.state_dict(), here / "torch_old.bin", _use_new_zipfile_serialization=False)
torch.save({"model": state, "epoch": 3}, here / "torch_nested.bin")
save_file(
    {name: value.detach().float().contiguous().numpy() for name, value in state.items() if name != "integers"},
    here / "torch.safetensors",
)


class Evil:
    def __reduce__(self):
        return os.system, ("touch polar-raw-was-here",)


torch.save({"weight": torch.zeros(2), "evil": Evil()}, here / "torch_evil.bin")

writer = gguf.GGUFWriter(here / "blocks.gguf", "llama")
writer.add_array("some.texts", ["a", "é"])
random, expected = numpy.random.default_rng(1), {}
for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"):
    number = gguf.GGMLQuantizationType[kind]
    values = random.normal(size=(3, 64)).astype(numpy.float32)
    values[1, :32] = 0
    data = gguf.quants.quantize(values, number)
    writer.add_tensor(kind, data, raw_dtype=number)
    expected[kind] = gguf.quants.dequantize(data, number)
writer.add_tensor("Q5_0", gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q5_0), raw_dtype=gguf.GGMLQuantizationType.Q5_0)
# The package writes no K-quants: blocks of any bytes, with scales that are finite in f16, among them none, the least
# ones (subnormal), negative ones, and blocks whose other bits are all ones.
SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
for kind, places in SCALES.items():
    number = gguf.GGMLQuantizationType[kind]
    bytes_of_block = gguf.GGML_QUANT_SIZES[number][1]
    data = random.integers(0, 256, (6, bytes_of_block), dtype=numpy.uint8)
    data[1] = 255
    for place in places:
        scales = random.normal(size=6).astype(numpy.float16)
        scales[2], scales[3] = 0, 6e-8
        data[:, place : place + 2] = scales.view(numpy.uint8).reshape(6, 2)
    data = data.reshape(2, -1)
    writer.add_tensor(kind, data, raw_dtype=number)
    expected[kind] = gguf.quants.dequantize(data, number)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
save_file(expected, here / "blocks.safetensors")
