"""What a run of the tests was asked for."""


def asks_for_hardware(config):
    """Tell whether `-m` asks for tests that bear `hardware`: only then is this machine searched for devices and sensors."""
    return "hardware" in config.option.markexpr.replace("not hardware", "")
