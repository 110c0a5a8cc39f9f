"""Classifiers by name or import path: normalization first, features h, head g."""

from dm2at_ray.models.classifier import Classifier, split_at_last_linear
from dm2at_ray.models.normalize import Normalize
from dm2at_ray.models.registry import make_network
from dm2at_ray.models.spec import ModelSpec
from dm2at_ray.models.weights import load_pretrained, load_weights, save_weights

__all__ = [
    "Classifier",
    "ModelSpec",
    "Normalize",
    "load_pretrained",
    "load_weights",
    "make_network",
    "save_weights",
    "split_at_last_linear",
]
