"""One file per step of a round: each a thin Ray adapter around the Ray-free folders."""
