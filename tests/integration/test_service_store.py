"""Runs in an object store, through the service: it is killed, and another one goes on elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import yaml

from dm2at_ray.client import Client
from dm2at_ray.store import RunDirectory

from .commands import wait_for
from .job_cluster import JobCluster, free_ports, job_cluster
from .served import Server

NAME = "digits"
QUERIES = 12
SECONDS = 240

CONFIG: dict[str, Any] = {
    "data": {"source": "digits"},
    "model": {"batch_size": 64},
    "query": {"oracle": "files", "initial": QUERIES, "size": QUERIES},
    "neighbors": {"k": 3},
    "training": {"steps": 20, "batch_size": 8},
    "evaluation": {"pgd_steps": 2, "max_images": 50},
    "stop": {"rounds": 1},
    "compute": {"actors": 1},
    "monitoring": {"enabled": False},
}


def test_service__started_elsewhere_on_the_same_store_has_lost_nothing(bucket: Any, tmp_path: Path) -> None:
    config, runs = yaml.safe_dump(CONFIG), f"{bucket.uri}/runs"
    with job_cluster() as cluster:
        with server_on(runs, cluster, tmp_path / "here") as here:
            client = Client(here.url)
            job = client.start(NAME, config).job
            asked = asked_in(client, 0)
            said = {sample: name_of(sample) for sample in asked[:5]}
            for sample, name in said.items():
                client.answer(NAME, {sample: name})
            here.kill()
        with server_on(runs, cluster, tmp_path / "there") as there:
            client = Client(there.url)
            assert {word.sample_id: word.label for word in client.said(NAME)} == said
            assert client.start(NAME, config).job == job
            assert client.picture(NAME, asked[0]).startswith(b"\x89PNG")
            client.answer(NAME, {sample: name_of(sample) for sample in asked[5:]})
            # The next step starts by itself, here too.
            later = asked_in(client, 1)
            assert not set(later) & set(asked)
            assert client.twin(NAME, later[0]).startswith(b"\x89PNG")
            client.answer(NAME, {sample: name_of(sample) for sample in later})
            wait_for("the run's end", lambda: client.status(NAME).state == "done", SECONDS)
            model = client.model(NAME, 1, tmp_path / "model.safetensors")
    run = RunDirectory(f"{runs}/{NAME}")
    assert [run.round(index).committed for index in (0, 1)] == [True, True]
    names = run.class_names()
    for index, ids in enumerate((asked, later)):
        rows = run.round(index).labels().to_pylist()
        assert {row["sample_id"]: names[row["label"]] for row in rows} == {s: name_of(s) for s in ids}
    stored, downloaded = run.round(1).weights(), safetensors.torch.load_file(model)
    assert stored.keys() == downloaded.keys()
    assert all(stored[name].equal(downloaded[name]) for name in stored)
    assert all(key.startswith(f"runs/{NAME}/") for key in bucket.objects())


def server_on(runs: str, cluster: JobCluster, folder: Path) -> Server:
    """A server with nothing of its own."""
    folder.mkdir()
    options = {"runs": runs, "address": cluster.url, "cache": folder / "cache"}
    return Server(folder, free_ports(1)[0], options, cluster.variables)


def asked_in(client: Client, round_index: int) -> list[int]:
    """Samples that a round asks for, once it awaits their labels."""

    def awaits() -> bool:
        awaiting = client.status(NAME).awaiting
        return awaiting is not None and awaiting.round == round_index

    wait_for(f"round {round_index}", awaits, SECONDS)
    return [query.sample_id for query in client.queries(NAME, round_index)]


def name_of(sample_id: int) -> str:
    """What is said of a sample, be it true or not."""
    return str(sample_id % 10)
