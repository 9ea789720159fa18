"""What runs for every sample: the stages, one after another until an exit is sure enough."""
