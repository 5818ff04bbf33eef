"""The mean-reverting SDE: diffuse the residual between a clean and a degraded image to noise, and learn the way back.

Conventions: z = x - mu is the residual of an image x against the degraded image mu, t = 0 ... T counts steps, and
z_t given z_0 is normal with mean alpha_t z_0 and standard deviation sigma_t = lambda sqrt(1 - alpha_t^2). So z / lambda
is a variance-preserving diffusion, and every sampler for those applies. A *denoiser* gives the expected z_0 for a z_t.
The first half of the file is pure mathematics on arrays or tensors; the second is the network.
Source: Luo et al. 2023 (arXiv:2301.11699), its released schedule (cosine, T = 100, lambda = 10/255, eps = 0.005);
exponential integrators as in Lu et al. 2022 (arXiv:2211.01095).
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fairrecon_core.degrade import noise_generator
from fairrecon_core.learn.body import UNet, cosine
from fairrecon_core.learn.loop import Batch
from fairrecon_core.reconstruct import as_batch, register
from fairrecon_core.reconstruct.network import NetworkReconstructor, level_code
from fairrecon_core.settings import Settings


@dataclass(frozen=True)
class Schedule:
    """How fast the residual forgets: alpha falls from 1 at t = 0 to `eps` at t = `steps`.

    Parameters
    ----------
    steps : int
        T.
    scale : float
        lambda, the standard deviation of the noise at the end, in units of the grey scale.
    eps : float
        alpha at the end.
    kind : {"cosine", "constant"}
        Of the rates theta_t.
    """

    steps: int = 100
    scale: float = 10 / 255
    eps: float = 0.005
    kind: str = "cosine"

    def __post_init__(self):
        if self.steps < 2 or self.scale <= 0 or not 0 < self.eps < 1 or self.kind not in ("cosine", "constant"):
            raise ValueError(f"need steps >= 2, scale > 0, 0 < eps < 1 and a known kind, got {self}")

    @cached_property
    def theta(self) -> np.ndarray:
        """Rates, shape (T + 1,), before they are scaled by `dt`."""
        if self.kind == "constant":
            return np.ones(self.steps + 1)
        x = np.arange(self.steps + 3) / (self.steps + 2)
        fall = np.cos((x + 0.008) / 1.008 * math.pi / 2) ** 2
        return 1 - fall[1:-1] / fall[0]

    @cached_property
    def dt(self) -> float:
        """Length of a step, so that alpha ends at `eps`."""
        return float(-math.log(self.eps) / self.theta[1:].sum())

    @cached_property
    def alpha(self) -> np.ndarray:
        """What is left of z_0, shape (T + 1,), from 1 to `eps`."""
        return np.exp(-self.dt * (np.cumsum(self.theta) - self.theta[0]))

    @cached_property
    def sigma(self) -> np.ndarray:
        """Standard deviation of the noise, shape (T + 1,), from 0 to almost `scale`."""
        return self.scale * np.sqrt(1 - self.alpha**2)

    def posterior(self, t: int, s: int) -> tuple[float, float, float]:
        """z_s given z_t and z_0, s < t: weights of z_t and z_0 in the mean, and the standard deviation."""
        ratio = self.alpha[t] / self.alpha[s]
        between = self.scale**2 * (1 - ratio**2)
        total = self.sigma[t] ** 2
        spread = math.sqrt(self.sigma[s] ** 2 * between / total)
        return ratio * self.sigma[s] ** 2 / total, self.alpha[s] * between / total, spread

    def published_epsilon(self, t: int) -> tuple[float, float, float]:
        """What the published loss teaches instead of the noise eps: a eps + b z / sigma; and the loss's weight.

        The published loss compares the Euler step from t to t - 1 with the exact one, so its optimum is an eps that
        makes up for Euler's error. Inverting a and b gives the true eps back (`true_epsilon`).
        """
        c_z, c_0, _ = self.posterior(t, t - 1)
        gain = 2 * self.scale**2 * self.theta[t] * self.dt
        a = c_0 * self.sigma[t] ** 2 / (self.alpha[t] * gain)
        b = (1 + self.theta[t] * self.dt - c_z - c_0 / self.alpha[t]) * self.sigma[t] ** 2 / gain
        return float(a), float(b), float(gain / self.sigma[t])

    def times(self, n_steps: int) -> np.ndarray:
        """`n_steps` + 1 whole times from T down to 0, evenly spaced; ValueError if there are not so many."""
        if not 1 <= n_steps <= self.steps:
            raise ValueError(f"between 1 and {self.steps} reverse steps, got {n_steps}")
        return np.round(np.linspace(self.steps, 0, n_steps + 1)).astype(int)


SCHEDULE = Schedule()  # the published one


def true_epsilon(predicted, z, t: int, schedule: Schedule):
    """The noise eps from the output of a network that was trained with the published loss."""
    a, b, _ = schedule.published_epsilon(t)
    return (predicted - b * z / schedule.sigma[t]) / a


def walk_back(
    denoise: Callable,
    start,
    noise: Callable[[], object],
    schedule: Schedule,
    sampler: str = "ode2",
    n_steps: int | None = None,
):
    """Walk from noise back to a residual.

    Parameters
    ----------
    denoise : callable
        `denoise(z, t)` gives the expected z_0 for z_t; called once per step.
    start : array or Tensor
        z_T, normal with standard deviation `schedule.scale`.
    noise : callable
        `noise()` gives standard normal numbers shaped as `start`; used by the samplers that are random.
    schedule : Schedule
    sampler : {"euler", "posterior", "ode2", "sde2"}
        The published Euler steps of the reverse SDE (always all T); posterior steps, exact given z_0 and not given its
        mean, so that with few steps samples spread too little; the second-order exponential integrator of the
        probability-flow ODE; the same of the SDE.
    n_steps : int, optional
        Calls of the denoiser; 10 by default for ode2 and sde2, T for the others.

    Returns
    -------
    array or Tensor
        z_0, as `start`.

    Raises
    ------
    ValueError
        Unknown sampler, or a number of steps that it does not take.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; choose one of {', '.join(SAMPLERS)}")
    n_steps = n_steps or (10 if sampler in ("ode2", "sde2") else schedule.steps)
    if sampler == "euler" and n_steps != schedule.steps:
        raise ValueError(f"the euler sampler takes all {schedule.steps} steps, got {n_steps}: choose ode2 for fewer")
    times = schedule.times(n_steps)
    return SAMPLERS[sampler](denoise, start, noise, schedule, list(itertools.pairwise(times)))


def _euler(denoise, z, noise, schedule, steps):
    for t, _ in steps:
        drift = schedule.theta[t] * schedule.dt
        score = (schedule.alpha[t] * denoise(z, t) - z) / schedule.sigma[t] ** 2
        spread = schedule.scale * math.sqrt(2 * drift)
        z = z + drift * z + spread**2 * score + spread * noise()
    return z


def _posterior(denoise, z, noise, schedule, steps):
    for t, s in steps:
        c_z, c_0, spread = schedule.posterior(t, s)
        z = c_z * z + c_0 * denoise(z, t)
        z = z + spread * noise() if s else z
    return z


def _exponential(stochastic: bool):
    """Second-order multistep integrator: extrapolates the denoiser's answer in h, the step in log signal-to-noise."""

    def walk(denoise, z, noise, schedule, steps):
        last, h_last = None, 0.0
        for t, s in steps:
            z_0 = denoise(z, t)
            if s == 0:
                return z_0
            log_snr = [math.log(schedule.alpha[k] * schedule.scale / schedule.sigma[k]) for k in (t, s)]
            h = log_snr[1] - log_snr[0]
            target = z_0 if last is None else z_0 + h / (2 * h_last) * (z_0 - last)
            shrink, decay = schedule.sigma[s] / schedule.sigma[t], math.exp(-h)
            if stochastic:
                fresh = schedule.sigma[s] * math.sqrt(1 - decay**2) * noise()
                z = shrink * decay * z + schedule.alpha[s] * (1 - decay**2) * target + fresh
            else:
                z = shrink * z + schedule.alpha[s] * (1 - decay) * target
            last, h_last = z_0, h
        return z

    return walk


SAMPLERS = {"euler": _euler, "posterior": _posterior, "ode2": _exponential(False), "sde2": _exponential(True)}


# ---------------------------------------------------------------------- the network
class TimedUNet(nn.Module):
    """A U-Net on (scaled z, mu, level), conditioned on the time t.

    Parameters
    ----------
    width : int
        Feature maps of the first level; 64 is the paper's.
    steps : int
        T, to scale the time.
    """

    n_updates: Tensor  # of a running mean of weights alone

    def __init__(self, width: int, steps: int):
        super().__init__()
        self.steps, length = steps, 4 * width
        self.body = UNet(in_channels=3, width=width, norm=True, embedding=length)
        self.time = nn.Sequential(nn.Linear(32, length), nn.SiLU(), nn.Linear(length, length))
        for value in self.body.out.parameters():
            nn.init.zeros_(value)

    def forward(self, z: Tensor, mu: Tensor, level: float, t: Tensor) -> Tensor:
        """z, mu: (B, 1, H, W); level: the code of `level_code`; t: (B,). Returns (B, 1, H, W)."""
        frequencies = torch.exp(torch.arange(16, device=t.device) * (math.log(1000) / 15))
        angle = t[:, None].float() / self.steps * frequencies
        condition = self.time(torch.cat([angle.sin(), angle.cos()], dim=1))
        return self.body(torch.cat([z, mu, torch.full_like(mu, level)], dim=1), condition)


@register
class SDEReconstructor(NetworkReconstructor):
    """The mean-reverting SDE, with weights averaged over training at inference.

    Parameters
    ----------
    modality, width, device
        As in `NetworkReconstructor`.
    learning_rate : float
        Of Adam with betas (0.9, 0.99).
    loss : {"unbiased", "published"}
        Squared error of the noise, weighted so that every time counts alike (its optimum is the true score); or the
        published L1 loss, whose outputs are corrected before they are sampled.
    sampler, n_steps
        As in `walk_back`.
    schedule : Schedule
    average : float
        Decay of the running mean of the weights, per step.
    residual_sd : float
        Typical standard deviation of clean less degraded, which scales the network's input and output.
    decay : bool
        Let the learning rate fall to 0 along a cosine, which a short training needs.
    """

    name, label, colour, marker = "sde", "mean-reverting SDE", "#882255", "D"
    saved, stochastic, generative = "average", True, True
    short_training: ClassVar = {"learning_rate": 1e-3, "decay": True, "average": 0.995}
    at_inference = ("sampler", "n_steps")

    @classmethod
    def options(cls, settings: Settings, modality: str) -> dict:
        """As for all networks, and the sampler; the published one takes all steps, whatever `sde_steps` says."""
        n_steps = None if settings.sampler == "euler" else settings.sde_steps or None
        return super().options(settings, modality) | {"sampler": settings.sampler, "n_steps": n_steps}

    def __init__(
        self,
        modality="mri",
        width=16,
        device="cpu",
        learning_rate=1e-4,
        loss="unbiased",
        sampler="ode2",
        n_steps=None,
        schedule=SCHEDULE,
        average=0.999,
        residual_sd=0.08,
        decay=False,
    ):
        if loss not in ("unbiased", "published"):
            raise ValueError(f"loss is 'unbiased' or 'published', got {loss!r}")
        super().__init__(modality, width, device, loss=loss, scale=round(schedule.scale, 6), steps=schedule.steps)
        self.learning_rate, self.loss, self.sampler, self.n_steps = learning_rate, loss, sampler, n_steps
        self.schedule, self.averaging, self.residual_sd, self.decay = schedule, average, residual_sd, decay
        self.build()

    def build(self) -> None:
        """The network, and the running mean of its weights, which is what samples."""
        self.net = TimedUNet(self.width, self.schedule.steps)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.average.register_buffer("n_updates", torch.zeros((), dtype=torch.long), persistent=True)

    def start_from(self, path) -> None:
        """Take first weights, of the network and of its running mean, from a file that `save` wrote."""
        super().start_from(path)
        self.net.load_state_dict({k: v for k, v in self.average.state_dict().items() if k != "n_updates"})

    def modules(self) -> dict[str, nn.Module]:
        """`net` learns, `average` follows."""
        return {"net": self.net, "average": self.average}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam."""
        return {"net": torch.optim.Adam(self.net.parameters(), lr=self.learning_rate, betas=(0.9, 0.99))}

    def rate(self, epoch: int, epochs: int) -> float:
        """1, or half a cosine from 1 towards 0 with `decay`."""
        return cosine(epoch, epochs) if self.decay else 1.0

    def after_step(self) -> None:
        """Move the running mean; faster in the beginning."""
        self.average.n_updates.add_(1)
        n = int(self.average.n_updates)
        share = 1 - min(self.averaging, (1 + n) / (10 + n))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.net.parameters()):
                mean.lerp_(value, share)

    def losses(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """One random time and noise per image, from torch's random state."""
        device, n = batch.clean.device, len(batch.clean)
        t = torch.randint(1, self.schedule.steps + 1, (n,)).to(device)
        yield "net", self._loss(self.net, batch, t, torch.randn(batch.clean.shape).to(device))

    def validation_loss(self, batch: Batch) -> Tensor:
        """The averaged network's loss at times and noise that belong to the image."""
        device = batch.clean.device
        generators = [noise_generator(0, name, batch.level, stream="sde-validation") for name in batch.names]
        t = torch.cat([torch.randint(1, self.schedule.steps + 1, (1,), generator=g) for g in generators])
        noise = torch.stack([torch.randn(batch.clean.shape[1:], generator=g) for g in generators])
        return self._loss(self.average, batch, t.to(device), noise.to(device))

    def _loss(self, network: nn.Module, batch: Batch, t: Tensor, noise: Tensor) -> Tensor:
        alpha, sigma = self._at(self.schedule.alpha, t), self._at(self.schedule.sigma, t)
        z_0 = batch.clean - batch.degraded
        z, code = alpha * z_0 + sigma * noise, level_code(self.modality, batch.level)
        if self.loss == "published":
            a, b, weight = (self._at(self._published[:, k], t) for k in range(3))
            predicted = network(z / self.schedule.scale, batch.degraded, code, t)
            return (weight * (predicted - a * noise - b * z / sigma).abs()).mean() / float(self._published[:, 2].mean())
        skip, gain, into = self._scales(alpha, sigma)
        predicted = network(into * z, batch.degraded, code, t)
        return ((predicted - (z_0 - skip * z) / gain) ** 2).mean()

    @cached_property
    def _published(self) -> np.ndarray:
        rows = [self.schedule.published_epsilon(t) for t in range(1, self.schedule.steps + 1)]
        return np.array([rows[0], *rows])  # row t belongs to time t

    @staticmethod
    def _at(values: np.ndarray, t: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(t.device)[t][:, None, None, None]

    def _scales(self, alpha, sigma):
        """z_0 = skip z + gain F(into z): F and its input have unit variance when z_0 has `residual_sd`."""
        variance = alpha**2 * self.residual_sd**2 + sigma**2
        return alpha * self.residual_sd**2 / variance, sigma * self.residual_sd / variance**0.5, variance**-0.5

    def denoise(self, z: Tensor, t: int, degraded: Tensor, level: float) -> Tensor:
        """Expected residual z_0 for z_t and the degraded images of a level, all (B, 1, H, W)."""
        alpha, sigma = float(self.schedule.alpha[t]), float(self.schedule.sigma[t])
        times, code = torch.full((len(z),), int(t), device=z.device), level_code(self.modality, level)
        if self.loss == "published":
            eps = self.average(z / self.schedule.scale, degraded, code, times)
            if self.sampler != "euler":  # which the published loss makes up for
                eps = true_epsilon(eps, z, t, self.schedule)
            return (z - sigma * eps) / alpha
        skip, gain, into = self._scales(alpha, sigma)
        return skip * z + gain * self.average(into * z, degraded, code, times)

    def restore(self, degraded, level, image_ids, seed, sample, measurement) -> Tensor:
        """One posterior sample per image."""
        mu = degraded[:, None].to(self.device)
        generators = [noise_generator(seed, name, level, k, stream="sde") for name, k in zip(image_ids, sample)]
        noise = lambda: torch.stack([torch.randn(mu.shape[1:], generator=g) for g in generators]).to(self.device)
        denoise = lambda z, t: self.denoise(z, t, mu, level)
        z = walk_back(denoise, self.schedule.scale * noise(), noise, self.schedule, self.sampler, self.n_steps)
        return (mu + z)[:, 0]

    def samples(self, degraded, level: float, n: int, *, image_ids, seed: int = 0) -> Tensor:
        """`n` samples per image, shape (n, B, H, W): their mean is the better guess, their spread the doubt."""
        batch, names = as_batch(degraded), [image_ids] if isinstance(image_ids, str) else list(image_ids)
        which = [k for k in range(n) for _ in names]
        drawn = self(batch.repeat(n, 1, 1), level, image_ids=names * n, seed=seed, sample=which)
        return drawn.unflatten(0, (n, len(batch)))
