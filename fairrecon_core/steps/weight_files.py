"""Files of weights: made unless they are current, taken over from another run, shipped with the package, or refused."""

from collections.abc import Callable, Mapping
from pathlib import Path

from fairrecon_core.learn.weights import read_card
from fairrecon_core.steps.setup import Setup
from fairrecon_core.steps.siblings import taken_over
from fairrecon_core.steps.stamps import Stamp, digest, why

SHIPPED = Path(__file__).parents[1] / "weights"
SIMULATED = {"mri": "brain", "xray": "chest"}  # whose shipped weights a real cohort's networks may start from


def make_weights(
    setup: Setup, network, name: str, folder: Path, made_from: Stamp, learn: Callable, facts: Mapping
) -> Path:
    """Train and save weights unless those in `folder` are current.

    Parameters
    ----------
    setup : Setup
    network : NetworkReconstructor or Reader
        What `learn` trains.
    name : str
        Of the arm or reader, for the line that says why it is made anew.
    folder : Path
    made_from : dict
        Stamp of the weights.
    learn : callable
        `learn(state)` trains with its state in the folder `state` and gives the table of losses.
    facts : mapping
        Further entries of the model card.
    """
    path, mark = folder / "weights.safetensors", digest(made_from)
    if reason := current_or_why(setup, path, made_from):
        setup.run.remade(f"weights of {name} for {setup.cohort.name}", reason)
        losses = learn(folder / f"training-{mark[:8]}")
        network.save(path, stamp=mark, made_from=made_from, losses=losses.to_dict("list"), **facts)
    setup.run.wrote(path)
    setup.run.note("weights", {str(path.relative_to(setup.run.folder)): mark})
    for state in folder.glob("training-*/state.safetensors"):
        state.unlink()
    return path


def current_or_why(setup: Setup, path: Path, made_from: Stamp) -> str:
    """Why weights at `path` are not current; "" if they are, or are by now those of another run."""
    read = lambda file: {"stamp": card_of(file).get("made_from")}
    reason = why(read(path)["stamp"], made_from)
    return "" if not reason or taken_over(setup.run.folder, path, made_from, read) else reason


def refuse_stale(path: Path, reason: str, what: str, call: str) -> Path:
    """`path`, or a FileNotFoundError if weights of `what` are out of date for a `reason`; `call` makes them."""
    if reason:
        raise FileNotFoundError(f"the weights of {what} are not current ({reason}): make them first, by {call}")
    return path


def shipped(setup: Setup, name: str) -> Path:
    """Shipped weights for a cohort of `setup`.

    Raises
    ------
    FileNotFoundError
        None are shipped under this `name`, for this cohort and size.
    ValueError
        They were trained on another version of the simulator.
    """
    path, info, shape = SHIPPED / f"{name}.safetensors", setup.cohort.info, setup.cohort.images.shape[1:]
    if not (path.exists() and "simulator_version" in info and shape == (128, 128)):
        raise FileNotFoundError(
            f"no weights are shipped for {name!r} on {shape[0]} px images of cohort {setup.cohort.name!r}: "
            "set train: true to train it here"
        )
    card = card_of(path)
    if card.get("simulator_version") != info["simulator_version"]:
        raise ValueError(
            f"{path.name} was trained on simulator version {card.get('simulator_version')!r}, the cohort has "
            f"{info['simulator_version']!r}: train again (train: true)"
        )
    setup.run.note("weights", {path.name: card.get("commit", "")})
    return path


def start_of(setup: Setup, *names: str) -> Path | None:
    """Shipped weights of the simulated cohort to start a training of `setup` from: the first of `names`, if any.

    Raises
    ------
    ValueError
        Unknown `start_from`, or nothing of these names is shipped.
    """
    choice = setup.run.settings.start_from
    if choice in ("random", "imagenet"):
        return None
    if choice != "shipped":
        raise ValueError(f"start_from is 'random', 'shipped' or 'imagenet', got {choice!r}")
    files = [SHIPPED / f"{SIMULATED[setup.cohort.modality]}-{name}.safetensors" for name in names]
    for path in files:
        if path.exists():
            return path
    raise ValueError(f"no weights are shipped to start {names[0]!r} from: set start_from: random")


def card_of(path: Path) -> dict:
    """Model card of a weights file, empty if it cannot be read: that is refused by name when it is loaded."""
    try:
        return read_card(path)
    except (ValueError, OSError):
        return {}
