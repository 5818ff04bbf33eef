"""Low-dose X-ray: what fewer photons do to an image.

Three modes. `physical` treats the image as a slice of tissue and follows the photons: attenuation, bow-tie filter
along the detector, Poisson counts, logarithm, filtered back-projection. `published` does what the paper's code does,
which is something else. `radiograph` takes a chest film as what it is, a projection already: noise, no tomography.
What sets `published` apart can also be had in `physical`, choice by choice (`CHOICES`), to measure what each does.

Conventions: images are (B, N, N) in [0, 1]; line integrals p are dimensionless, (B, detector, view); a photon count is
the number of photons that would reach a bin in the middle of the detector with nothing in the way. A film has no
absolute scale, so one is stated: 35 cm across, and white attenuates like water, 0.2 per cm.
Source: paper Sec. 2.1 "X-ray"; floor and calibration as in the LoDoPaB data set (doi:10.1038/s41597-021-00893-z);
Poisson numbers from normal ones, Ahrens and Dieter 1982 (doi:10.1145/355993.355997).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairrecon_core.degrade import Degradation, Measurement, check_choice, noise_generator, register
from fairrecon_core.degrade.radon import WINDOWS, fbp, radon
from fairrecon_core.degrade.skimage_radon import bilinear_beam

MODES = ("physical", "published", "radiograph")
SAMPLERS = ("exact", "fast")
CHOICES = {  # of the physical mode: the right one first, then the published one
    "bowtie_axis": ("detector", "view"),
    "counts": ("beer_lambert", "linear"),
    "flat_field": ("divided", "none"),
    "stretch": ("none", "per_image"),
}


@dataclass(frozen=True)
class Exposure:
    """What one photon count made of a batch."""

    image: Tensor  # (B, N, N) in [0, 1]
    sinogram: Tensor | None  # (B, T, A) as measured; None in radiograph mode
    starved: Tensor  # (B,) fraction of readings below `floor`, which were raised to it: they bias the image
    clipped: Tensor  # (B,) fraction of pixels that left [0, 1] and were clipped to it


@register
class LowDoseXRay(Degradation):
    """Fewer photons, the degradation named "xray".

    Parameters
    ----------
    mode : {"physical", "published", "radiograph"}
        "physical": N0 b(t) exp(-p) photons, logarithm, back-projection. "published": `published_sinogram`, scaled so
        that its largest value *in this image* is the photon count, Poisson, scaled back, `published_image`.
        "radiograph": N0 exp(-p) photons at each pixel, p in proportion to the film's grey value, logarithm.
    field_of_view_cm, attenuation_per_cm : float
        Width of the image, and attenuation of a white pixel.
    edge_transmission : float
        Bow-tie filter: photons it lets through at the edge of the field, in (0, 1]; 1 is no filter. Physical mode.
    bowtie_axis : {"detector", "view"}
        What the filter varies along. "view", as published: the V of `view_bowtie`, all bins of a view alike.
    counts : {"beer_lambert", "linear"}
        "beer_lambert": N0 b exp(-p) photons, logarithm. "linear", as published: b p, scaled so that its largest value
        in this image is N0, Poisson, scaled back; no exponential, no logarithm. Thick parts are then *better* lit.
    flat_field : {"divided", "none"}
        Whether the filter is divided out of what was recorded, as a scanner does. "none", as published: its shape
        stays in the sinogram, as p - log b, or with linear counts as b p.
    stretch : {"none", "per_image"}
        "none" clips the image to [0, 1]. "per_image", as published: from its minimum to its maximum, 8 bits.
    electronic_noise : float
        Standard deviation of the detector's own noise, in photons.
    floor : float
        Smallest reading, in photons, of which a logarithm is taken. Raising to 1 biases p by -.76 where .5 photons
        arrive on average, -.22 at 1, +.14 at 3, and by 1 / (2 photons) from 10 on.
    window : {"hann", "ramp"}
        Of the back-projection in physical mode. The published one is Hann.
    n_views : int, optional
        Default: image size, rounded up to a multiple of 4 (256 at 256 pixels, as published).
    thickness_cm : float
        Radiograph mode: path through the patient where the film is white.
    sampler : {"exact", "fast"}
        See `poisson`.

    `bowtie_axis`, `counts`, `flat_field` and `stretch` belong to the physical mode; elsewhere they are refused. With
    all four as published it is the published mode, but for the projector (ours is `radon`, theirs bilinear).
    """

    name = "xray"
    modality = "xray"
    identity_level = math.inf
    # Defaults stay with the class: stamps of what has been made with them hold only what differs.
    bowtie_axis, counts, flat_field, stretch = (valid[0] for valid in CHOICES.values())

    def __init__(
        self,
        mode: str = "physical",
        *,
        field_of_view_cm: float = 35.0,
        attenuation_per_cm: float = 0.2,
        edge_transmission: float = 0.05,
        bowtie_axis: str = "detector",
        counts: str = "beer_lambert",
        flat_field: str = "divided",
        stretch: str = "none",
        electronic_noise: float = 0.0,
        floor: float = 1.0,
        window: str = "hann",
        n_views: int | None = None,
        thickness_cm: float = 20.0,
        sampler: str = "exact",
    ):
        self.mode, self.window = check_choice("mode", mode, MODES), check_choice("window", window, WINDOWS)
        self.sampler, self.n_views = check_choice("sampler", sampler, SAMPLERS), n_views
        positive = {"field_of_view_cm": field_of_view_cm, "attenuation_per_cm": attenuation_per_cm,
                    "edge_transmission": edge_transmission, "floor": floor, "thickness_cm": thickness_cm}  # fmt: skip
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is positive and finite, got {value!r}")
        self.field_of_view_cm, self.attenuation_per_cm = float(field_of_view_cm), float(attenuation_per_cm)
        self.edge_transmission, self.floor, self.thickness_cm = map(float, (edge_transmission, floor, thickness_cm))
        if edge_transmission > 1 or not 0 <= electronic_noise < math.inf:
            raise ValueError(
                f"need edge_transmission <= 1 and noise >= 0, got {edge_transmission=}, {electronic_noise=}"
            )
        self.electronic_noise = float(electronic_noise)
        self._choose(bowtie_axis=bowtie_axis, counts=counts, flat_field=flat_field, stretch=stretch)

    def _choose(self, **choices: str) -> None:
        for name, value in choices.items():
            if check_choice(name, value, CHOICES[name]) == CHOICES[name][0]:
                continue
            if self.mode != "physical":
                raise ValueError(
                    f"{name} is a choice of the physical mode, got {value!r} in {self.mode} mode: leave it out"
                )
            setattr(self, name, value)

    def check_level(self, level: float, size: int) -> None:
        """Refuse a photon count that is not positive, with a ValueError; images may have any `size`."""
        if not level > 0:
            raise ValueError(f"a photon count is positive (infinity for no noise), got {level!r}")

    @torch.no_grad()
    def expose(self, images, photon_counts: Sequence[float], image_ids, seed: int = 0) -> list[Exposure]:
        """One exposure per photon count, all from one noise-free sinogram."""
        batch, names = self._checked(images, math.inf, image_ids)
        for photon_count in photon_counts:
            self.check_level(photon_count, batch.shape[-1])
        signal = None if all(map(math.isinf, photon_counts)) else self._signal(batch)
        return [self._expose(batch, signal, float(count), names, int(seed)) for count in photon_counts]

    def _measure(self, images, level, image_ids, seed):
        exposure = self.expose(images, [level], image_ids, seed)[0]
        return exposure.image, Measurement(level, sinogram=exposure.sinogram)

    def _signal(self, batch: Tensor) -> Tensor:
        """What would be recorded without noise."""
        if self.mode == "published":
            return published_sinogram(batch, self.n_views)
        if self.mode == "radiograph":
            return batch * (self.attenuation_per_cm * self.thickness_cm)
        return line_integrals(batch, self.field_of_view_cm, self.attenuation_per_cm, self.n_views)

    def _expose(self, batch, signal, photon_count, names, seed) -> Exposure:
        if math.isinf(photon_count):
            nothing = torch.zeros(len(batch))
            return Exposure(batch.clone(), None, nothing, nothing)
        device, size = batch.device.type, batch.shape[-1]
        generators = [noise_generator(seed, name, photon_count, device=device) for name in names]
        nothing = torch.zeros(len(batch))
        if self.mode == "published":
            recorded = self._linear(signal, photon_count, generators)
            return Exposure(published_image(recorded, size), recorded, nothing, nothing)
        passed = self._filter(signal, size)
        if self.counts == "linear":
            recorded, starved = self._linear(signal * passed, photon_count, generators, self.electronic_noise), nothing
            recorded = recorded / passed if self.flat_field == "divided" else recorded
        else:
            recorded, starved = self._logarithm(signal, photon_count, passed, generators)
        if self.mode == "physical":
            image = fbp(recorded, size, self.window) / (self.field_of_view_cm / size * self.attenuation_per_cm)
        else:
            image = recorded / (self.attenuation_per_cm * self.thickness_cm)
        kept = recorded if self.mode == "physical" else None
        if self.stretch == "per_image":
            return Exposure(stretched(image), kept, starved, nothing)
        clipped = ((image < 0) | (image > 1)).float().mean((1, 2))
        return Exposure(image.clamp(0, 1), kept, starved, clipped)

    def _filter(self, signal: Tensor, size: int) -> Tensor:
        """Part of the photons that the bow-tie lets through, to be multiplied with a sinogram (T, A)."""
        if self.mode == "radiograph":
            return torch.ones(1, device=signal.device)
        if self.bowtie_axis == "view":
            return view_bowtie(signal.shape[2], self.edge_transmission).to(signal)
        pixel_cm, radius_cm = self.field_of_view_cm / size, self.field_of_view_cm / 2
        return bowtie(signal.shape[1], pixel_cm, radius_cm, self.edge_transmission).to(signal)[:, None]

    def _logarithm(self, signal, photon_count, passed, generators) -> tuple[Tensor, Tensor]:
        """Line integrals as recorded behind what they attenuate, and the starved part of the readings."""
        air = photon_count * passed  # photons with nothing in the way
        counts = poisson(air * torch.exp(-signal), generators, self.sampler)
        counts = self._with_noise(counts, generators, self.electronic_noise)
        starved = (counts < self.floor).float().mean((1, 2))
        reference = air if self.flat_field == "divided" else torch.full_like(air, photon_count)
        return torch.log(reference / counts.clamp(min=self.floor)), starved

    def _linear(self, signal, photon_count, generators, electronic_noise: float = 0.0) -> Tensor:
        """Signal as the published code records it: counts in proportion to it, most photons where it is largest."""
        peak = signal.amax((1, 2), keepdim=True).clamp(min=torch.finfo(signal.dtype).tiny)
        counts = poisson((signal / peak * photon_count).clamp(min=0), generators, self.sampler)
        return self._with_noise(counts, generators, electronic_noise) / photon_count * peak

    @staticmethod
    def _with_noise(counts: Tensor, generators, electronic_noise: float) -> Tensor:
        if not electronic_noise:
            return counts
        noise = [torch.randn(c.shape, generator=g, device=c.device) for c, g in zip(counts, generators)]
        return counts + electronic_noise * torch.stack(noise)


def views_for(size: int) -> int:
    """Views of a scan: one per pixel of width, rounded up to a multiple of 4."""
    return 4 * math.ceil(size / 4)


def line_integrals(
    images: Tensor, field_of_view_cm: float = 35.0, attenuation_per_cm: float = 0.2, n_views: int | None = None
) -> Tensor:
    """Attenuation along each ray, dimensionless (B, T, A), of images (B, N, N) in [0, 1]."""
    pixel_cm = field_of_view_cm / images.shape[-1]
    return radon(images, n_views or views_for(images.shape[-1])) * (pixel_cm * attenuation_per_cm)


def bowtie(n_detectors: int, pixel_cm: float, radius_cm: float, edge_transmission: float) -> Tensor:
    """Part of the photons that a bow-tie filter lets through to each bin, (T,): 1 in the middle, less outside.

    The filter makes up for a round body: it is thickest where the body, a cylinder of `radius_cm`, is thin. With
    `edge_transmission` exp(-2 mu radius) it evens out a cylinder of attenuation mu completely.
    """
    t_cm = (torch.arange(n_detectors) - n_detectors // 2) * pixel_cm
    thickness = torch.sqrt((1 - (t_cm / radius_cm) ** 2).clamp(min=0))  # of the cylinder, 1 in the middle
    return edge_transmission ** (1 - thickness)


def view_bowtie(n_views: int, edge_transmission: float) -> Tensor:
    """The published "bow-tie", (A,): a V over the *views*, 1 at 0 degrees, `edge_transmission` at 90, 1 at 180.

    Raises
    ------
    ValueError
        If `n_views` is odd: the two arms of the V would not fit.
    """
    if n_views % 2:
        raise ValueError(f"the published profile needs an even number of views, got {n_views}")
    arm = torch.linspace(edge_transmission, 1, n_views // 2)
    return torch.cat([arm.flip(0), arm])


def poisson(mean: Tensor, generators: Sequence[torch.Generator], sampler: str = "exact") -> Tensor:
    """Photon counts, each image from its own generator.

    Parameters
    ----------
    mean : Tensor, shape (B, ...)
        Expected counts, 0 or more.
    generators : B generators
    sampler : {"exact", "fast"}
        "fast" rounds a skewed normal (Cornish-Fisher) where the mean is 10 or more; its total variation distance from
        Poisson is 0.003 at a mean of 10 and 0.002 from 20 on. Below 10 both are exact.

    Returns
    -------
    Tensor, shaped as `mean`, whole numbers
    """
    draw = {"exact": _normal_with_correction, "fast": _cornish_fisher}[check_choice("sampler", sampler, SAMPLERS)]
    if mean.device.type != "cpu":
        draw = _library
    counts = torch.empty_like(mean)
    for out, lam, generator in zip(counts, mean, generators):
        flat = lam.reshape(-1)
        values = draw(flat, generator)
        few = torch.nonzero(flat < 10).view(-1)
        if len(few) and draw is not _library:
            values.index_copy_(0, few, torch.poisson(flat.index_select(0, few), generator))
        out.copy_(values.view_as(lam))
    return counts


def _library(mean: Tensor, generator: torch.Generator) -> Tensor:
    return torch.poisson(mean, generator)


def _cornish_fisher(mean: Tensor, generator: torch.Generator) -> Tensor:
    z = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    return (mean + mean.sqrt() * z + (z * z - 1) / 6 + 0.5).floor_().clamp_(min=0)


def _normal_with_correction(mean: Tensor, generator: torch.Generator) -> Tensor:
    """Exact from a mean of 10 on, and faster than torch.poisson (Ahrens and Dieter's algorithm PD).

    A normal number, cut to a whole one, is right nearly always. A cheap test lets 98 of 100 pass; the others are kept
    with probability Poisson / normal, or replaced by a draw from what the normal lacks.
    """
    mean = mean.clamp(min=10)
    spread = mean.sqrt()
    counts = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).mul_(spread).add_(mean).floor_()
    chance = torch.rand(mean.shape, generator=generator, dtype=mean.dtype)
    missing = mean - counts
    doubtful = torch.nonzero(6 * mean * mean * chance < missing * missing * missing).view(-1)
    k, mu, chance = (values.index_select(0, doubtful).double() for values in (counts, mean, chance))
    poisson, normal = _poisson_and_normal(k, mu)
    wrong = torch.nonzero((1 - chance) * normal > poisson).view(-1)
    todo, mu = doubtful[wrong], mu[wrong]
    while len(todo):  # four tries at once: two of three succeed
        side = 2 * torch.rand(4, len(mu), generator=generator, dtype=mu.dtype) - 1
        reach = -torch.log1p(-torch.rand(side.shape, generator=generator, dtype=mu.dtype))
        t = 1.8 + reach * side.sign()
        k = torch.floor(mu + mu.sqrt() * t)
        poisson, normal = _poisson_and_normal(k, mu)
        good = (t > -0.6744) & (0.1069 / mu * side.abs() <= (poisson - normal) * reach.exp())
        first = good.byte().argmax(0, keepdim=True)
        found = good.any(0)
        counts.index_copy_(0, todo[found], k.gather(0, first)[0, found].to(counts))
        todo, mu = todo[~found], mu[~found]
    return counts


def _poisson_and_normal(k: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of k from Poisson, and from a normal number of the same mean and variance cut to a whole one."""
    poisson = torch.where(k < 0, 0.0, torch.exp(k * mean.log() - mean - torch.lgamma(k.clamp(min=0) + 1)))
    below, above = (torch.erf((edge - mean) / torch.sqrt(2 * mean)) for edge in (k, k + 1))
    return poisson, (above - below) / 2


def published_sinogram(images: Tensor, n_views: int | None = None) -> Tensor:
    """Noise-free sinogram (B, T, A) of the published code, its "bow-tie" applied.

    What is odd about it, one by one: the filter is a V over the *views* (1 at 0 degrees, 0.05 at 90, 1 at 180), where
    a bow-tie varies along the detector; it multiplies line integrals, where a bow-tie multiplies photons; and nothing
    undoes it. The line integrals are in pixels: no pixel size, no attenuation, no exponential.

    Raises
    ------
    ValueError
        If `n_views` is odd: the two arms of the V would not fit.
    """
    n_views = n_views or views_for(images.shape[-1])
    passed = view_bowtie(n_views, 0.05)
    sinograms = bilinear_beam(images.shape[-1], n_views).radon(images.float().cpu())
    return (sinograms * passed).to(images)


def published_image(sinogram: Tensor, size: int, eight_bit: bool = True) -> Tensor:
    """Image (B, size, size) of the published code: Hann back-projection, stretched to [0, 1], stored in 8 bits.

    The stretch follows the noisiest two pixels. The published files were also JPEG-compressed; ours are not.
    """
    images = bilinear_beam(size, sinogram.shape[2]).iradon_hann(sinogram.float().cpu()).to(sinogram)
    return stretched(images, eight_bit)


def stretched(images: Tensor, eight_bit: bool = True) -> Tensor:
    """Each image (B, N, N) from its own minimum at 0 to its own maximum at 1, in 256 steps if `eight_bit`."""
    low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
    images = (images - low) / (high - low).clamp(min=1e-12)
    return torch.round(images * 255) / 255 if eight_bit else images
