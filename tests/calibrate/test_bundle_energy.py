"""The energy of a bundle's exits by one call."""

import pytest

from offramp.calibrate import measure_bundle_energy
from offramp.devices import Meter, Probe, Rail
from offramp.devices.meters import modelled
from offramp.errors import DataError, UsageError


def test_with_a_stated_power_joules_are_latency_times_power(dense, labelled):
    energies = measure_bundle_energy(dense.path, labelled[0][:50], modelled(5.0))
    assert energies.grade == "modelled" and energies.fingerprint["engine"].startswith("onnxruntime")
    assert [exit_.energy_j for exit_ in energies.exits] == pytest.approx(
        [5 * exit_.latency_s for exit_ in energies.exits]
    )


def test_what_cannot_be_measured_is_refused(dense, labelled):
    rail = Rail(name="supply", role="total", covers="12 V")
    meter = Meter("bench", [Probe((rail,), lambda: (7.0,))], scope="the 12 V supply", grade="external")
    with pytest.raises(UsageError, match="at least 10 trials"):
        measure_bundle_energy(dense, labelled[0][:50], meter, trials=3)
    with pytest.raises(DataError, match="shape"):
        measure_bundle_energy(dense, labelled[0][:50, :3], modelled(5.0))


@pytest.mark.parametrize("counts, readings", [("energy", (32000.0,)), ("power", (5.0, 2.0))])
def test_a_modelled_meter_states_one_power_and_no_counter(dense, labelled, counts, readings):
    rails = [Rail(name=f"rail{k}", role="total", covers="the board", counts=counts) for k in range(len(readings))]
    meter = Meter("mine", [Probe(tuple(rails), lambda: readings)], scope="as stated", grade="modelled")
    with pytest.raises(UsageError, match="states one power in watts"):
        measure_bundle_energy(dense, labelled[0][:50], meter)
