"""Commands of `dm2at`, a file each."""
