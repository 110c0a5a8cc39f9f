"""The commands of `dm2at`, a file for each group; each parses, calls and prints."""
