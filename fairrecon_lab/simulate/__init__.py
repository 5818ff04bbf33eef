"""Simulated brain and chest cohorts: images with a known truth, from a seed, without a download.

`simulate` yields what `write_cohort` takes; `patient_table` gives everything but the images; `counterfactual`
draws one patient again with something about them changed. Every figure made of these says "simulated".
"""

from fairrecon_lab.simulate.causal import TASKS, Bias, as_bias, patient_table
from fairrecon_lab.simulate.drawing import counterfactual, simulate
from fairrecon_lab.simulate.population import population
from fairrecon_lab.simulate.truth import ReferenceReader, reference_rates, reference_reader, true_gap_by_monte_carlo

__all__ = [
    "SIMULATOR_VERSION",
    "TASKS",
    "Bias",
    "ReferenceReader",
    "as_bias",
    "counterfactual",
    "patient_table",
    "population",
    "reference_rates",
    "reference_reader",
    "simulate",
    "true_gap_by_monte_carlo",
]

SIMULATOR_VERSION = "1"  # part of every cohort and every weights file: a retune of the images makes a new one
