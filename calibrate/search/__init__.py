"""The thresholds, variant and placement that meet a target at the least cost, found by the selecting samples."""
