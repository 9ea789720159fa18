"""Calls that take as long as a test says: which of two small networks is faster is the machine's affair."""

from msgspec.structs import replace

from offramp.runtime import Net


def let_calls_take(monkeypatch, seconds_of):
    """Let results say that a call took `seconds_of(network, exit)`, where network is as in `Provenance.network`."""
    call = Net.__call__

    def timed(net, x):
        result = call(net, x)
        return replace(result, latency_s=seconds_of(net.provenance.network, result.exit))

    monkeypatch.setattr(Net, "__call__", timed)
