"""Labels from people: the log of what they said, the tasks they are given, and the formats of their tools."""

from __future__ import annotations

from dm2at_ray.labeling.book import LabelBook

__all__ = ["LabelBook"]
