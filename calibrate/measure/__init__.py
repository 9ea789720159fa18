"""What every exit says of every sample on the device, and what it costs in seconds and joules."""
