"""`dm2at report`: gather what a run directory has into the page that `monitoring.report` renders."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np

from dm2at_ray import __version__
from dm2at_ray.monitoring.gallery import QueriedImage
from dm2at_ray.monitoring.report import ReportData, render_report
from dm2at_ray.pool import Pool, Source, open_source
from dm2at_ray.source_spec import source_spec
from dm2at_ray.store import RoundDirectory, RunDirectory
from dm2at_ray.store.tensors import tensor_array
from dm2at_ray.uri import absolute_uri

PICTURES_PER_ROUND = 12


def write_report(run_dir: str, output: Path | None = None) -> str:
    """Write the page and return where it is.

    Args:
        run_dir: Path or URI of the run directory.
        output: The file; `report.html` in the run directory if left out.

    Raises:
        RunError: There is no run.
        PoolError: The pictures that were queried are no longer where they were.
    """
    run = RunDirectory(absolute_uri(run_dir))
    run.require()
    page = make_report(run, open_source(source_spec(run.config()))).encode()
    if output is not None:
        output.write_bytes(page)
        return str(output)
    run.files.write_bytes("report.html", page)
    return f"{run.uri.rstrip('/')}/report.html"


def make_report(run: RunDirectory, source: Source | None) -> str:
    """The page of the rounds that are committed.

    Args:
        run: The run directory.
        source: Where the pool's images are; None for a page without pictures.

    Raises:
        PoolError: The pictures that were queried are no longer where they were.
    """
    return render_report(gather(run, source), pictures_per_round=PICTURES_PER_ROUND)


def gather(run: RunDirectory, source: Source | None) -> ReportData:
    """Everything that the page shows of the rounds that are committed."""
    config = run.config()
    rounds = run.committed_rounds()
    names = run.class_names() or (source and source.class_names) or []
    pictures: dict[int, list[QueriedImage]] = {}
    if rounds:
        spec = rounds[0].model_spec()
        names = names or [str(number) for number in range(spec.num_classes)]
        if source is not None:
            files = run.manifest_files("pool")
            pool = Pool.open(files.filesystem, files.root, source, spec.image_size, spec.channels)
            pictures = {r.index: queried_images(r, pool, PICTURES_PER_ROUND) for r in rounds}
    return ReportData(
        title=config.name,
        run_dir=run.uri,
        config_yaml=config.to_yaml(),
        version=__version__,
        created=datetime.now().astimezone(),
        class_names=names,
        rounds=[r.metrics() for r in rounds],
        queries=pictures,
        evaluations={r.index: list(r.evaluations().values()) for r in rounds},
        facts={
            "strategy": config.query.strategy,
            "model": config.model.name,
            "epsilon": f"{config.attack.epsilon * 255:g}/255",
        },
    )


def queried_images(round_: RoundDirectory, pool: Pool, count: int) -> list[QueriedImage]:
    """The `count` best queries of a round with their twins; none of round 0, which is drawn at random."""
    queries = round_.queries().slice(0, count)
    ids = queries["sample_id"].to_numpy()
    crafted = round_.twins(ids)
    if crafted is None:
        return []
    twins = dict(zip(crafted["sample_id"].to_pylist(), tensor_array(crafted["image"]), strict=True))
    predicted = dict(
        zip(crafted["sample_id"].to_pylist(), crafted["predicted_label"].to_pylist(), strict=True)
    )
    answers = round_.labels()
    labels = dict(zip(answers["sample_id"].to_pylist(), answers["label"].to_pylist(), strict=True))
    return [
        QueriedImage(
            sample_id=int(sample_id),
            image=image,
            adversarial=np.asarray(twins[int(sample_id)]),
            true_label=labels.get(int(sample_id)),
            predicted_label=predicted[int(sample_id)],
            score=score,
        )
        for sample_id, image, score in zip(ids, pool.read(ids), queries["score"].to_pylist(), strict=True)
    ]
