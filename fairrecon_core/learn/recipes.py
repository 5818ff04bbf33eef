"""What a network is made and trained with: its class's own options, and above them `recipes` of the settings."""

import inspect
from collections.abc import Mapping
from typing import Any

from fairrecon_core.settings import suggest

OF_TRAINING = ("epochs", "batch_size", "patience")  # for the loop; all other options are for the network
NEVER = {"modality", "device", "tasks", "schedule"}  # what a run, or its cohort, decides


def checked(kind: Any, name: str, given: Mapping) -> dict:
    """The options `given` for a network's class, `kind`, under its `name` in the settings.

    ValueError if it has no such option, with the nearest one, or takes a number.
    """
    has = {key: value.default for key, value in inspect.signature(kind).parameters.items() if key not in NEVER}
    has |= dict.fromkeys(OF_TRAINING, 0)
    for key, value in given.items():
        if key not in has:
            raise ValueError(f"recipes: {name} has no option {key!r}{suggest(key, has)}; it has {', '.join(has)}")
        if isinstance(has[key], int | float) and not isinstance(value, int | float):
            raise ValueError(f"recipes: {key} of {name} takes a number, got {value!r} (write 1.0e-3 for 1e-3)")
    return dict(given)


def parted(options: Mapping) -> tuple[dict, dict]:
    """Options of the network's class, and options of the training loop."""
    of_network = {key: value for key, value in options.items() if key not in OF_TRAINING}
    return of_network, {key: options[key] for key in OF_TRAINING}
