"""Measure a bundle on the device, and find operating points that meet a target, each with its promise."""

from typing import TYPE_CHECKING

from .. import late_names
from ..bundle import Calibration, OperatingPoint, Target

if TYPE_CHECKING:
    from .ask_files import read_labels
    from .asking import Asked, ask_labels
    from .benchmark import Benchmark, OtherNetwork, Row
    from .bundle_comparison import BundleComparison, compare_bundles
    from .bundle_energy import measure_bundle_energy
    from .compared import Compared
    from .comparison import bench
    from .grouped_samples import load_grouped
    from .html_report.contents import Report
    from .html_report.making import report
    from .measure.energy import ExitEnergies, ExitEnergy, measure_energy, model_energy
    from .pipeline import calibrate
    from .reuse_rules import calibrate_reuse
    from .sample_files import load_samples
    from .sides import BundleSide, VariantWork
    from .stage_costs import StageCost
    from .target_file import read_targets
    from .truth import Ragged

__all__ = [
    "Asked",
    "Benchmark",
    "BundleComparison",
    "BundleSide",
    "Calibration",
    "Compared",
    "ExitEnergies",
    "ExitEnergy",
    "OperatingPoint",
    "OtherNetwork",
    "Ragged",
    "Report",
    "Row",
    "StageCost",
    "Target",
    "VariantWork",
    "ask_labels",
    "bench",
    "calibrate",
    "calibrate_reuse",
    "compare_bundles",
    "load_grouped",
    "load_samples",
    "measure_bundle_energy",
    "measure_energy",
    "model_energy",
    "read_labels",
    "read_targets",
    "report",
]

__getattr__ = late_names(
    __name__,
    {
        "Asked": "asking",
        "Benchmark": "benchmark",
        "BundleComparison": "bundle_comparison",
        "BundleSide": "sides",
        "Compared": "compared",
        "ExitEnergies": "measure.energy",
        "OtherNetwork": "benchmark",
        "Ragged": "truth",
        "ExitEnergy": "measure.energy",
        "Report": "html_report.contents",
        "Row": "benchmark",
        "StageCost": "stage_costs",
        "VariantWork": "sides",
        "ask_labels": "asking",
        "bench": "comparison",
        "calibrate": "pipeline",
        "calibrate_reuse": "reuse_rules",
        "compare_bundles": "bundle_comparison",
        "measure_bundle_energy": "bundle_energy",
        "measure_energy": "measure.energy",
        "load_grouped": "grouped_samples",
        "load_samples": "sample_files",
        "model_energy": "measure.energy",
        "read_labels": "ask_files",
        "read_targets": "target_file",
        "report": "html_report.making",
    },
)


def __dir__() -> list[str]:
    """Show late names too, to whoever looks for what is here."""
    return __all__
