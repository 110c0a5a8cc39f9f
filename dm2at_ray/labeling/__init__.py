"""Labels from people: the log of what they said, what they are asked, and the formats of their tools."""

from __future__ import annotations

from dm2at_ray.labeling.book import LabelBook
from dm2at_ray.labeling.export import Exported, export_queries
from dm2at_ray.labeling.formats import CANNOT_TELL, FORMATS
from dm2at_ray.labeling.importing import ImportReport, import_labels
from dm2at_ray.labeling.overview import labels_history, labels_status
from dm2at_ray.labeling.picture_files import ExportSettings
from dm2at_ray.labeling.tasks import Neighbor, Task, awaiting_round, query_tasks

__all__ = [
    "CANNOT_TELL",
    "FORMATS",
    "ExportSettings",
    "Exported",
    "ImportReport",
    "LabelBook",
    "Neighbor",
    "Task",
    "awaiting_round",
    "export_queries",
    "import_labels",
    "labels_history",
    "labels_status",
    "query_tasks",
]
