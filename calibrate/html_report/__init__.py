"""A calibration and its figures as one HTML page."""
