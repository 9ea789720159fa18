"""Add a variant to a bundle, made from one of its variants: fewer exits, lower precision, pruned. And compare the two."""
