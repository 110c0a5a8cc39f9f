"""What a client is told where the service does not do what was asked."""

from __future__ import annotations

from typing import Any

from dm2at_ray.errors import UserError

NO_CONNECTION = "no-connection"
"""The kind of a ServiceError where no service has answered."""
NOT_A_SERVICE = "not-a-service"
"""Its kind where something else than this service has answered."""


class ServiceError(UserError):
    """The service refuses a request, or does not answer.

    Args:
        kind: Of the problem, as `dm2at_ray.service.problems` has it; or NO_CONNECTION or NOT_A_SERVICE.
        status: HTTP status code; 0 where nobody has answered.
        detail: What is wrong, and the mend.
        more: Further members of the problem, such as `outcomes` of refused labels.

    Examples:
        >>> error = ServiceError("unknown-run", 404, "run 'x': not in this service's folder of runs")
        >>> error.kind, error.status, str(error)
        ('unknown-run', 404, "run 'x': not in this service's folder of runs")
    """

    def __init__(self, kind: str, status: int, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status = status
        self.detail = detail
        self.more = more
