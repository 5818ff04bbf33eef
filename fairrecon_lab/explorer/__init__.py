"""The degradation explorer: MRI and X-ray side by side, one patient each, on one screen.

`scenes` says what there is to choose from and computes what becomes of an image; `page` puts it on the screen. The
notebook `explorer.ipynb` shows it, also under Voila.
"""

from fairrecon_lab.explorer.page import explorer
from fairrecon_lab.explorer.scenes import Choice, Scene, View, scenes

__all__ = ["Choice", "Scene", "View", "explorer", "scenes"]
