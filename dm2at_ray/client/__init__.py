"""The service as seen from a program: its messages, and a client."""
