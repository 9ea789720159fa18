"""offramp deploys early-exit neural networks on constrained hardware: export, calibrate, run."""

__version__ = "0.1.0"
