"""What a product counts and shows of itself while it runs: snapshots, Prometheus, OpenTelemetry, a health file, a log."""
