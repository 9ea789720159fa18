"""Torch network in, torch network out: attach exits, train, prune."""
