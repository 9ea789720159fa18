"""What can be promised of a choice, tested on the samples that report."""
