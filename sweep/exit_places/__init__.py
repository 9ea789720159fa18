"""Where the exits of a network sit: every place is tried at once, and the best set of them is kept."""
