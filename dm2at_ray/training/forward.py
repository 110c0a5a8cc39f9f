"""One forward pass: precision, memory format, and the rows that count."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from dm2at_ray.training.layout import laid_out
from dm2at_ray.training.settings import Precision
from dm2at_ray.training.sync_batch_norm import counting


def forward(
    model: nn.Module, images: Tensor, precision: Precision = "float32", counts: Tensor | None = None
) -> Tensor:
    """Logits of images, float32 whatever the precision of the pass.

    Args:
        model: Maps (M, C, H, W) to logits (M, classes).
        images: (M, C, H, W), of any memory format; laid out as the model's weights are.
        precision: `bf16` runs the pass under autocast.
        counts: (M,) 1 for a row that counts in synchronized batch norm, 0 for one that does not; None counts
            all of them.
    """
    # A region for each pass: it keeps its casts of the weights, and a pass without gradients makes dead ones.
    autocast = torch.autocast(images.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    with counting(model, counts), autocast:
        logits: Tensor = model(laid_out(images, model))
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
