"""Sending a run to a Ray cluster by its job API, and following it to its end."""

import os

# Ray reads the mode once, when it is imported; a token that was set on purpose is meant to be used.
if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
    os.environ.setdefault("RAY_AUTH_MODE", "token")

from dm2at_ray.submission.attempt import Ending
from dm2at_ray.submission.job import Submission, submit

__all__ = ["Ending", "Submission", "submit"]
