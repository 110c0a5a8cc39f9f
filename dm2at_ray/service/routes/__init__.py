"""The routes, by subject."""

from dm2at_ray.service.routes import downloads, labels, page, pictures, queries, runs, server

ALL = (
    server.routes,
    runs.routes,
    queries.routes,
    labels.routes,
    pictures.routes,
    downloads.routes,
    page.routes,
)
"""Every subject's routes."""
