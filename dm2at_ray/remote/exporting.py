"""`dm2at queries export` of a run of a service, into a folder here."""

from __future__ import annotations

from collections.abc import Sequence

from dm2at_ray.client.schemas import Query
from dm2at_ray.errors import LabelError
from dm2at_ray.labeling.export import AskedRound, Exported, check_settings, write_export
from dm2at_ray.labeling.picture_files import ExportSettings, Place
from dm2at_ray.labeling.tasks import Neighbor, Task
from dm2at_ray.pool.decode import Raw
from dm2at_ray.pool.fetch import side_by_side
from dm2at_ray.remote.address import RemoteRun
from dm2at_ray.store.files import Files
from dm2at_ray.uri import absolute_uri


def export_queries(
    run: RemoteRun,
    format_name: str,
    *,
    round_index: int | None = None,
    output: str | None = None,
    settings: ExportSettings | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write the queries of a round for people to label, with pictures fetched from the service.

    A service does not tell where images are, so the export names none of their places.

    Args:
        run: The run.
        format_name: A key of `FORMATS`.
        round_index: The round; the one that awaits labels if left out.
        output: Folder, path or URI; `NAME-NNNN-FORMAT` here if left out.
        settings: How; as `ExportSettings` has it if left out.
        overwrite: Write an export anew that is there already.

    Raises:
        LabelError: The round has no queries, or the folder holds something else.
        ServiceError: The service refuses, or does not answer.
    """
    settings = settings or ExportSettings()
    if settings.pictures == "link":
        raise LabelError("--pictures link: the images are behind the service; give copy or none")
    check_settings(format_name, settings)
    index, size = _asked_round(run, round_index)
    folder = absolute_uri(output or f"{run.name}-{index:04d}-{format_name}").rstrip("/")

    def tasks(neighbors: bool) -> list[Task]:
        return [_task(query, neighbors) for query in run.client.queries(run.name, index)]

    def read(places: Sequence[Place]) -> list[Raw]:
        return side_by_side(lambda place: run.client.picture(run.name, place.sample_id), places)

    def classes() -> list[str]:
        known = [*run.client.status(run.name).classes, *sorted(run.client.labels(run.name).classes)]
        return list(dict.fromkeys(known))

    asked = AskedRound(run.name, index, size, tasks, classes, read)
    return write_export(asked, format_name, Files.at(folder), folder, settings, overwrite)


def _asked_round(run: RemoteRun, index: int | None) -> tuple[int, int]:
    """Index and size of the round that is meant."""
    rounds = run.client.labels(run.name).rounds
    chosen = [each for each in rounds if (each.open if index is None else each.round == index)]
    if chosen:
        return chosen[0].round, chosen[0].asked
    if index is None:
        raise LabelError(f"{run.url}: no round awaits labels now; name an earlier one with --round")
    there = ", ".join(str(each.round) for each in rounds) or "none yet"
    raise LabelError(f"--round {index}: it has no queries; rounds with queries: {there}")


def _task(query: Query, neighbors: bool) -> Task:
    near = query.neighbors if neighbors else []
    return Task(
        sample_id=query.sample_id,
        round=query.round,
        rank=query.rank,
        score=query.score,
        uri="",
        row=0,
        predicted=query.predicted,
        neighbors=tuple(Neighbor(each.sample_id, each.distance, each.label, "", 0) for each in near),
        answered=query.answered,
        label=query.label,
    )
