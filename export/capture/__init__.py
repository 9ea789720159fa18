"""Somebody's network to one graph, its exits, and a way to run the original."""
