"""Where in an image a network finds its evidence."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def grad_cam(network: nn.Module, layer: nn.Module, image, output: int) -> np.ndarray:
    """Where in an image a network finds evidence for one of its outputs.

    Parameters
    ----------
    network : Module
        From (1, 1, H, W) to (1, outputs).
    layer : Module
        Whose features are weighed, usually the last convolutional block.
    image : array, shape (H, W)
    output : int
        Number of the task.

    Returns
    -------
    ndarray, shape (h, w) of the layer, at least 0
        Features weighed by the mean gradient of the output, negative evidence cut off (Selvaraju et al. 2017).
    """
    kept: dict[str, Tensor] = {}
    hook = layer.register_forward_hook(lambda module, inputs, features: kept.update(features=features))
    try:
        place = next((weight.device for weight in network.parameters()), torch.device("cpu"))
        pixels = torch.as_tensor(np.asarray(image), dtype=torch.float32, device=place)[None, None].requires_grad_(True)
        logit = network(pixels)[0, output]
        gradient = torch.autograd.grad(logit, kept["features"])[0]
    finally:
        hook.remove()
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return F.relu((weights * kept["features"]).sum(dim=1))[0].detach().cpu().numpy()
