"""`dm2at serve`: runs, queries and labels over HTTP, on top of run directories and Ray's job API."""
