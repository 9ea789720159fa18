"""Networks that nobody trained together, joined: the next is asked only when the one before is unsure."""
