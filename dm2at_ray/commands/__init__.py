"""Groups of commands, each registered in `dm2at_ray.cli` by one line."""
