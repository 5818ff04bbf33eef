"""How many calls the SDE's way back needs: image quality of one sample, and whether the samples' spread is honest.

On validation images of the tutorial's simulated cohorts (`python3 run.py tutorial --only 01` makes them) at the audited
level, with the shipped weights and `ode2`. This is what the tutorial's setting `sde_steps` was chosen on. Error over
spread: squared error of the mean of eight samples over what their spread promises; 1 is honest, above 1 too sure.
"""

import sys

from report import Report, parser

from fairrecon_core.cohort.pixels import as_float
from fairrecon_core.predict import quality
from fairrecon_core.settings import load_settings
from fairrecon_core.steps.folder import Run, run_folder
from fairrecon_core.steps.pipeline import open_cohort


def main() -> bool:
    """Measure and print the table; no goal is set."""
    options = parser(__doc__)
    options.add_argument("--n", type=int, default=64, help="validation images per cohort")
    options.add_argument("--n-spread", type=int, default=16, help="of them with eight samples each")
    options.add_argument("--calls", type=int, nargs="+", default=[5, 6, 8, 10, 20])
    given = options.parse_args()
    settings = load_settings("tutorial")
    run, report = Run(run_folder("tutorial", {}), settings), Report("sde_calls")
    for name in settings.cohorts:
        steps = open_cohort(run, name)
        rows = steps.setup.rows(steps.audit_level, split="validation")[: given.n]
        ids, clean = steps.setup.names_of(rows), as_float(steps.cohort.images_at(rows))
        degraded = steps.setup.degradation(clean, steps.audit_level, ids, seed=settings.seed)
        network, few = steps.weights.load("sde"), slice(given.n_spread)
        network.sampler = "ode2"
        for network.n_steps in given.calls:
            images = network(degraded, steps.audit_level, image_ids=ids, seed=settings.seed)
            measured = quality.measure(images, clean)[["psnr_db", "lpips"]].mean()
            several = network.samples(degraded[few], steps.audit_level, 8, image_ids=ids[few], seed=settings.seed)
            error = ((several.mean(0).numpy() - clean[few]) ** 2).mean()
            promised = several.var(0).mean().item() * (1 + 1 / 8)
            about = f"{name}, {network.n_steps} calls"
            report.row(f"PSNR, {about}", measured["psnr_db"], "dB")
            report.row(f"LPIPS, {about}", measured["lpips"])
            report.row(f"error over spread, {about}", float(error / promised))
    return report.finish(given.json)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
