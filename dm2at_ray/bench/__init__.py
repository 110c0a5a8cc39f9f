"""`dm2at bench ...`: benchmarks that a user can run on their own hardware; nothing here needs Ray."""
