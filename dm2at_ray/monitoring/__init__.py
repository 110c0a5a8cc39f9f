"""What a run shows of itself: Prometheus metrics, progress at a terminal, and the HTML report.

Everything here takes plain values and imports neither Ray nor any other part of the package but its errors.
"""
