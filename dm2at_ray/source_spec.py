"""Where a config says that the images are, as the pool's sources are told it."""

from __future__ import annotations

from dm2at_ray.config import Config
from dm2at_ray.pool import SourceSpec
from dm2at_ray.uri import absolute_uri


def source_spec(config: Config) -> SourceSpec:
    """The pool's source, as any process can open it: workers start elsewhere, so local paths are absolute."""
    data = config.data
    return SourceSpec(
        kind=data.source,
        path=data.path and absolute_uri(data.path),
        test_path=data.test_path and absolute_uri(data.test_path),
        test_fraction=data.test_fraction,
        image_column=data.image_column,
        label_column=data.label_column,
        class_names=data.class_names,
        uri_column=data.uri_column,
        dataset=data.dataset,
        image_size=data.image_size,
        channels=data.channels,
        seed=config.seed,
    )
