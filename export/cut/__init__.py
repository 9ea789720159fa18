"""One graph to stages, static networks and golden samples, compared with the original."""
