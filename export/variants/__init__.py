"""A bundle to another variant in it: fewer exits, lower precision, pruned."""
