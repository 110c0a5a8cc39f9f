"""`python -m dm2at_ray`: the command where it is not installed, as in a submitted working directory."""

from dm2at_ray.cli import main

if __name__ == "__main__":
    main()
