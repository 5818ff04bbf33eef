"""Weights on disk: float16 safetensors, never pickles, each with its model card (who made it, how, what it gives)."""

import json
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fairrecon_core.tables import unfinished


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is corrupt or truncated; the message names it.
    """
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_card(path: str | Path) -> dict:
    """Model card of a weights file, without its tensors; errors as those of `read_safetensors`."""
    with _opened(path) as file:
        return json.loads((file.metadata() or {}).get("card", "{}"))


def write_safetensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors from any device and texts as a safetensors file, replaced as a whole; makes its folder."""
    part = unfinished(Path(path))
    part.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, part, metadata)
    part.replace(path)


@contextmanager
def _opened(path: str | Path):
    if not Path(path).exists():
        raise FileNotFoundError(f"no weights at {path}: train them (train: true), or use a profile that ships them")
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is corrupt or truncated ({error}): delete it and get or train it again") from None


def save_weights(path: str | Path, module: nn.Module, card: dict) -> None:
    """Write a module's weights as float16 safetensors with its model card (plain values) as metadata, atomically."""
    halves = {key: value.half() if value.is_floating_point() else value for key, value in module.state_dict().items()}
    write_safetensors(path, halves, {"card": json.dumps(card)})


def load_weights(path: str | Path, module: nn.Module, **expected) -> dict:
    """Load weights into a module and return their model card.

    Parameters
    ----------
    path : path
    module : Module
        float32; the stored float16 values are converted.
    **expected
        Entries that the card must have, such as `simulator_version="1"`.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file; corrupt; made for another network; or a card that does not say what is expected.
    """
    tensors, metadata = read_safetensors(path)
    card = json.loads(metadata.get("card", "{}"))
    for key, value in expected.items():
        if card.get(key) != value:
            raise ValueError(f"{Path(path).name} has {key} {card.get(key)!r}, this run needs {value!r}: train again")
    try:
        module.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
        )
    except RuntimeError as error:
        first = str(error).splitlines()[min(1, len(str(error).splitlines()) - 1)].strip()
        raise ValueError(f"{Path(path).name} was made for another network ({first[:150]})") from None
    return card
