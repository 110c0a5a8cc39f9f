"""What stands in paths and queries, each with its bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path, Query

from dm2at_ray.client.schemas import LARGEST_SAMPLE_ID, RUN_NAME

LAST_ROUND = 10**6

RunInPath = Annotated[str, Path(alias="run", pattern=RUN_NAME, description="The run's name.")]
RoundInPath = Annotated[int, Path(alias="round", ge=0, le=LAST_ROUND, description="The round, from 0.")]
SampleInPath = Annotated[
    int, Path(alias="sample_id", ge=0, le=LARGEST_SAMPLE_ID, description="The sample's id.")
]
RunsAfter = Annotated[
    str | None, Query(alias="after", pattern=RUN_NAME, description="`next` of the page before.")
]
RunsLimit = Annotated[int, Query(alias="limit", ge=1, le=200, description="The most to tell.")]
RoundsAfter = Annotated[
    int | None, Query(alias="after", ge=0, le=LAST_ROUND, description="`next` of the page before.")
]
After = Annotated[
    int | None, Query(alias="after", ge=0, le=LARGEST_SAMPLE_ID, description="`next` of the page before.")
]
Limit = Annotated[int, Query(alias="limit", ge=1, le=500, description="The most to tell.")]
SampleWanted = Annotated[
    int | None, Query(alias="sample_id", ge=0, le=LARGEST_SAMPLE_ID, description="Of this sample only.")
]
QueryState = Annotated[
    Literal["all", "open", "answered"], Query(alias="state", description="Which of the round's queries.")
]
