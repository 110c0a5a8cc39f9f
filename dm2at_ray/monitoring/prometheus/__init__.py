"""Prometheus's side of a run: what is scraped, what is recorded and what is cause for alarm."""
