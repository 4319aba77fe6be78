"""How precisely a training computes: a row per kind, and what fp32 means on a GPU.

The table imports no torch.
"""

from contextlib import AbstractContextManager

from nat_lib.errors import Refusal

# name -> type that autocast computes in; None: everything in float32
PRECISIONS = {"fp32": None, "bf16": "bfloat16", "fp16": "float16"}


def autocast(device: str, precision: str) -> AbstractContextManager:
    """The context in which a forward pass computes.  device: "cpu" or "cuda"."""
    import torch

    if precision not in PRECISIONS:
        raise Refusal(f"precision {precision!r}: use one of {', '.join(PRECISIONS)}")
    name = PRECISIONS[precision]
    return torch.autocast(device, name and getattr(torch, name), enabled=name is not None)


def scaler(device: str, precision: str):
    """What multiplies the loss so that small gradients survive in float16; idle otherwise."""
    import torch

    return torch.amp.GradScaler(device, enabled=precision == "fp16")


def exact() -> None:
    """float32 means float32 on a GPU, in convolutions as in products: torch by itself rounds the
    inputs of convolutions alone to TF32."""
    import torch

    torch.backends.cudnn.conv.fp32_precision = "ieee"
    torch.backends.cuda.matmul.fp32_precision = "ieee"
