"""Weights to and from safetensors files: plain tensors, never a pickle."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dm2at_ray.errors import ModelError
from dm2at_ray.models.stem import first_convolution

logger = logging.getLogger(__name__)

AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")
POSITION_EMBEDDING = "encoder.pos_embedding"
STATISTICS = ("normalize.mean", "normalize.std")


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write all parameters and buffers to a .safetensors file; a tensor with two names is stored once."""
    safetensors.torch.save_model(model, str(path))


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Read back what ``save_weights`` wrote, onto the model's device; every tensor must be there and fit.

    Raises:
        ModelError: the file cannot be read, or is not of this model.
    """
    _load(model, _read(path), path, may_miss=())


def load_pretrained(model: nn.Module, path: str | Path) -> None:
    """Start a network, or a whole Classifier, from weights that were trained for something else.

    - The head stays as it is where the number of classes differs.
    - A stem that differs in its input channels alone is adapted: summed over the channels and shared out
      evenly, so that a gray image is answered as its RGB copy was. A stem of another shape stays as it is.
    - A vision transformer's position embedding is interpolated to another number of patches.
    - A Classifier's normalization comes from the file, unless the channels differ.

    Each of these, and each auxiliary head left out, is logged as a warning.

    Args:
        model: what the file's names belong to, say a torchvision model not yet split into body and head.
        path: a local .safetensors file.

    Raises:
        ModelError: the file cannot be read, or anything else is missing, left over or of another shape.
    """
    tensors = _read(path)
    own = model.state_dict()
    skipped = [name for name in tensors if name.startswith(AUXILIARY_HEADS) and name not in own]
    if any(_differs(name, tensors, own) for name in _head(model)):
        skipped += _head(model)
    if _differs(STATISTICS[0], tensors, own):
        skipped += STATISTICS
    skipped += _adapt_stem(model, tensors, path)
    if _differs(POSITION_EMBEDDING, tensors, own) and _is_vision_transformer(model):
        from torchvision.models.vision_transformer import interpolate_embeddings

        logger.warning("%s: position embedding interpolated to %d pixels", path, model.image_size)
        tensors = interpolate_embeddings(model.image_size, model.patch_size, tensors)
    if skipped:
        logger.warning("%s: left out, of another shape or without a use: %s", path, ", ".join(skipped))
    _load(model, {name: tensors[name] for name in tensors if name not in skipped}, path, may_miss=skipped)


def is_classifier_file(path: str | Path) -> bool:
    """Whether the file was written from a whole Classifier, normalization included.

    Raises:
        ModelError: the file cannot be read.
    """
    return STATISTICS[0] in _read(path)


def _read(path: str | Path) -> dict[str, Tensor]:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ModelError(
            f"weights {path} are not a .safetensors file (others can run code when read); convert them once: "
            'python -c "import torch, safetensors.torch; safetensors.torch.save_file('
            f"torch.load('{path}', weights_only=True), '{path.with_suffix('.safetensors')}')\""
        )
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise ModelError(f"weights {path} are not there; give the path of a .safetensors file") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(f"weights {path} cannot be read ({error}); copy or save the file again") from error


def _load(model: nn.Module, tensors: dict[str, Tensor], path: str | Path, may_miss: Collection[str]) -> None:
    """Copy the tensors in, or say all that does not fit and change nothing."""
    own = model.state_dict(keep_vars=True)
    given = {id(own[name]) for name in tensors if name in own}
    missing = [
        name
        for name, tensor in own.items()
        # A tied tensor is in the file under one of its names; files of old torch have no batch counter.
        if id(tensor) not in given and name not in may_miss and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in tensors if name not in own]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in tensors
        if _differs(name, tensors, own)
    ]
    faults = [
        _first_few(fault, names)
        for fault, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
        )
        if names
    ]
    if faults:
        raise ModelError(
            f"weights {path} do not fit the model: {'; '.join(faults)}; "
            "give weights of the same model, under the names of its state_dict"
        )
    model.load_state_dict(tensors, strict=False)


def _adapt_stem(model: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> list[str]:
    """Fit the stem's weights in ``tensors`` to the model; the names to leave out where that is impossible."""
    stem = first_convolution(model)
    name = f"{stem}.weight"
    if stem is None or not _differs(name, tensors, model.state_dict()):
        return []
    given, own = tensors[name], model.state_dict()[name]  # (out, in, kernel height, kernel width)
    if given.ndim != 4 or given.shape[0] != own.shape[0] or given.shape[2:] != own.shape[2:]:
        return [tensor for tensor in (name, f"{stem}.bias") if tensor in tensors]
    channels = own.shape[1]
    tensors[name] = given.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels
    logger.warning("%s: stem %s adapted from %d to %d channels", path, stem, given.shape[1], channels)
    return []


def _is_vision_transformer(model: nn.Module) -> bool:
    # Imported here, because torchvision costs every process 1.5 s that the small models do not need.
    from torchvision.models import VisionTransformer

    return isinstance(model, VisionTransformer)


def _head(model: nn.Module) -> list[str]:
    """The names of the last linear layer's tensors."""
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [f"{linears[-1]}.weight", f"{linears[-1]}.bias"] if linears else []


def _differs(name: str, tensors: dict[str, Tensor], own: dict[str, Tensor]) -> bool:
    return name in tensors and name in own and tensors[name].shape != own[name].shape


def _first_few(fault: str, names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} {fault} ({', '.join(names[:3])}{more})"
