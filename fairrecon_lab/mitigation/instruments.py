"""What the study trains and what it looks with: a U-Net that learns in few steps, readers of its own world.

Two studies came out undetermined before these were made. The paper's U-Net, without normalisation, had not finished
learning: mean PSNR of one recipe lay 2 dB apart from seed to seed. And the reader that the series ships, which learned
on usual bodies at 128 px, is near chance on bodies as different as this study draws, at 64 px.
"""

import numpy as np
from torch import nn

from fairrecon_core.learn.body import UNet
from fairrecon_core.learn.loop import Images
from fairrecon_core.predict.classifier import Classifier
from fairrecon_core.predict.readers import labelled
from fairrecon_core.predict.segmenter import Segmenter
from fairrecon_core.reconstruct import arm_class, reconstructor
from fairrecon_core.reconstruct.unet import UNetReconstructor

READER_RATE, HELD_OUT = 1e-3, 0.1  # of Adam; share of the patients that choose the reader's best epoch
SEGMENTER_WIDTH = 8


class NormalisedUNet(UNetReconstructor):
    """The U-Net with normalisation (in groups of channels) after every convolution; all else is the arm "unet"."""

    def build(self) -> None:
        """One U-Net that starts as the identity because its last layer starts at zero."""
        self.net = UNet(in_channels=2, width=self.width, norm=True)
        for value in self.net.out.parameters():
            nn.init.zeros_(value)


def blank_network(arm: str, width: int, rate: float, modality: str = "xray"):
    """An untrained network of the study.

    Parameters
    ----------
    arm : str
        "unet" is `NormalisedUNet`; another is the core's.
    width : int
        Feature maps of the first level.
    rate : float
        Learning rate; the other options are those of a short training.
    modality : {"mri", "xray"}
    """
    options = arm_class(arm).short_training | {"learning_rate": rate, "width": width}
    return NormalisedUNet(modality, **options) if arm == "unet" else reconstructor(arm, modality, **options)


def teach_reader(images: np.ndarray, truth, task: str, epochs: int, **options) -> Classifier:
    """A reader that learned from clean images and true labels: an instrument, better than one from recorded labels.

    Parameters
    ----------
    images : array, shape (n, H, W)
    truth : array, shape (n,)
        0 or 1.
    task : str
    epochs : int
        At most; the best on a tenth of the patients is kept.
    **options
        Of `learn.loop.fit`.
    """
    reader = Classifier([task], "resnet18_half", learning_rate=READER_RATE)
    return _taught(reader, images, np.asarray(truth, np.float32)[:, None], epochs, options)


def teach_segmenter(images: np.ndarray, masks, epochs: int, **options) -> Segmenter:
    """A segmenter that learned from clean images and true masks.

    Parameters
    ----------
    images, masks : arrays, shape (n, H, W)
    epochs : int
        At most; the best on a tenth of the patients is kept.
    **options
        Of `learn.loop.fit`.
    """
    return _taught(Segmenter(SEGMENTER_WIDTH), images, np.asarray(masks), epochs, options)


def _taught(reader, images: np.ndarray, targets: np.ndarray, epochs: int, options: dict):
    """A `reader` after at most so many `epochs` on images and targets; the first tenth chooses the best."""
    n = max(1, round(HELD_OUT * len(images)))
    names = [str(k) for k in range(len(images))]
    parts = [(Images(images[part], names[part]), targets[part]) for part in (slice(n, None), slice(n))]
    reader.prepare(parts[0][1])
    draw = labelled(*parts[0], *parts[1], batch_size=reader.batch_size, augment=True)
    reader.fit(draw, epochs=epochs, progress=False, **options)
    return reader
