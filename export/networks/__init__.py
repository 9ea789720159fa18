"""Torch network in, torch network out: exits attached, trained, pruned."""
