"""One exercise for each notebook whose numbers, and therefore answer, belong to a student.

Conventions: `draw(generator)` gives the numbers as plain lists; the question names the variables that hold them; the
reference is Python text that reads these variables and ends with `answer` set to one number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Exercise:
    """A question about numbers that differ from student to student."""

    question: str
    draw: Callable[[np.random.Generator], dict]
    reference: str
    tolerance: float = 1e-3  # relative


def numbers_of(exercise: Exercise, seed: int, notebook: str) -> dict:
    """The numbers of one student in one notebook, by (seed, notebook) alone."""
    return exercise.draw(np.random.default_rng([seed, *notebook.encode()]))


def expected(exercise: Exercise, numbers: dict) -> float:
    """The right answer: what the reference gives for these numbers."""
    space = {"np": np, **numbers}
    exec(exercise.reference, space)
    return float(space["answer"])


def _normal(generator, n: int, middle: float, spread: float, digits: int = 3) -> list[float]:
    return [round(float(value), digits) for value in generator.normal(middle, spread, n)]


def _people(generator) -> dict:
    """Eight men, then eight women; of each the first four are ill."""
    scores = np.round(generator.uniform(0.05, 0.95, 16), 3)
    return {"truth": [1, 1, 1, 1, 0, 0, 0, 0] * 2, "sex": ["m"] * 8 + ["f"] * 8, "score": scores.tolist()}


def _decisions(generator) -> dict:
    people, later = _people(generator), np.round(generator.uniform(0.05, 0.95, 16), 3)
    return {"truth": people["truth"], "sex": people["sex"], "clean": people["score"], "arm": later.tolist()}


EXERCISES = {
    "00": Exercise(
        "`women` and `men` hold the change of contrast (reconstructed minus clean) of some patients. What is "
        "the "
        "difference of the means, women minus men?",
        lambda g: {"women": _normal(g, 9, -0.06, 0.03), "men": _normal(g, 7, -0.05, 0.03)},
        "answer = np.mean(women) - np.mean(men)",
    ),
    "01": Exercise(
        "A group has the given `share` of a population, a finding the given `prevalence` in it. How many "
        "test patients "
        "are needed so that, on average, `wanted` patients of the group have the finding?",
        lambda g: {
            "share": round(g.uniform(0.002, 0.05), 5),
            "prevalence": round(g.uniform(0.05, 0.4), 4),
            "wanted": 12,
        },
        "answer = wanted / (share * prevalence)",
    ),
    "02": Exercise(
        "`line` is a row of eight pixels. Transform it (`np.fft.fft`), set the samples 3, 4 and 5 (the "
        "fastest changes) "
        "to zero and transform back. What is the mean squared error?",
        lambda g: {"line": _normal(g, 8, 0.5, 0.2)},
        "k = np.fft.fft(line)\nk[3:6] = 0\nanswer = np.mean((np.fft.ifft(k).real - np.array(line)) ** 2)",
    ),
    "03": Exercise(
        "Noise alone is the error of an image, with the variance 1 / (photons times transmission). The "
        "photons are cut "
        "from `before` to `after`. By how many decibels does the PSNR fall?",
        lambda g: {"before": int(g.integers(50_000, 200_000)), "after": int(g.integers(2_000, 30_000))},
        "answer = 10 * np.log10(before / after)",
    ),
    "04": Exercise(
        "The measurement leaves four brightnesses of a pixel open, `possible`, with these `chances`. A "
        "network trained "
        "with squared error draws the best single number. What is its expected squared error?",
        lambda g: {"possible": _normal(g, 4, 0.5, 0.15), "chances": [0.4, 0.3, 0.2, 0.1]},
        "p, x = np.array(chances), np.array(possible)\nanswer = p @ (x - p @ x) ** 2",
    ),
    "05": Exercise(
        "The judge gives an impossible image the logit -`sure`, which costs log(1 + exp(sure)); one that it "
        "cannot tell "
        "costs log 2. The sharp guess has the L1 `sharp`, the empty one `empty`. At which weight of L1 do "
        "both cost the same?",
        lambda g: {"sure": round(g.uniform(2, 8), 2), "sharp": round(g.uniform(0.02, 0.03), 5), "empty": 0.0125},
        "answer = (np.log1p(np.exp(sure)) - np.log(2)) / (sharp - empty)",
    ),
    "06": Exercise(
        "A residual z_0 is normal with mean 0 and standard deviation `spread`. Noised, it is z = alpha z_0 + "
        "sigma eps. "
        "What is the expected z_0 for the given `z`?",
        lambda g: {
            "alpha": round(g.uniform(0.2, 0.9), 3),
            "sigma": round(g.uniform(0.01, 0.04), 4),
            "spread": round(g.uniform(0.03, 0.1), 4),
            "z": round(g.uniform(0.02, 0.1), 4),
        },
        "answer = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2) * z",
    ),
    "07": Exercise(
        "`mse_a` and `mse_b` hold the mean squared errors of the patients of two groups. What is the gap in "
        "PSNR in dB: "
        "the mean of group a minus the mean of group b (per patient first, then the mean)?",
        lambda g: {
            "mse_a": [round(float(v), 6) for v in g.uniform(4e-4, 2e-3, 6)],
            "mse_b": [round(float(v), 6) for v in g.uniform(4e-4, 2e-3, 5)],
        },
        "answer = np.mean(-10 * np.log10(mse_a)) - np.mean(-10 * np.log10(mse_b))",
    ),
    "08": Exercise(
        "`logits` of patients who are ill. A reconstruction lowers each by `drift`; the threshold stays at a "
        "score of "
        "one half. What is the mean score after the drift, 1 / (1 + exp(-logit))?",
        lambda g: {"logits": _normal(g, 10, 0.8, 1.0), "drift": round(g.uniform(0.3, 1.5), 3)},
        "answer = np.mean(1 / (1 + np.exp(-(np.array(logits) - drift))))",
    ),
    "09": Exercise(
        "Sixteen people with `truth`, `sex` and `score`. At which score would the TPR of women first reach "
        "one half: "
        "what is the second largest score of the women who are ill?",
        _people,
        'answer = sorted(s for s, t, x in zip(score, truth, sex) if t == 1 and x == "f")[-2]',
    ),
    "10": Exercise(
        "The same sixteen people have a score on `clean` images and one on those of an `arm`. Take the mean "
        "change of "
        "score, arm minus clean, of the ill women, minus the same of the ill men.",
        _decisions,
        "truth, sex = np.array(truth), np.array(sex)\nchange = np.array(arm) - np.array(clean)\n"
        'of = lambda group: change[(truth == 1) & (sex == group)].mean()\nanswer = of("f") - of("m")',
    ),
    "11": Exercise(
        "A paper prints gaps `before` and `after` a reconstruction. What is the median change in per cent of "
        "the gap before?",
        lambda g: {
            "before": [round(float(v), 3) for v in g.uniform(0.02, 0.4, 7)],
            "after": [round(float(v), 3) for v in g.uniform(0.02, 0.4, 7)],
        },
        "answer = np.median(100 * (np.array(after) - np.array(before)) / np.array(before))",
    ),
    "12": Exercise(
        "Two groups have the same true `rate`, measured on `n_1` and `n_2` patients. The difference of two "
        "estimates is "
        "about normal; the mean of |normal| is its standard deviation times sqrt(2 / pi). How large a gap is "
        "printed on average?",
        lambda g: {
            "rate": round(g.uniform(0.2, 0.8), 3),
            "n_1": int(g.integers(20, 90)),
            "n_2": int(g.integers(100, 900)),
        },
        "answer = np.sqrt(2 / np.pi * rate * (1 - rate) * (1 / n_1 + 1 / n_2))",
    ),
    "13": Exercise(
        "`one` and `other` are two reconstructions of the pixels `clean`. What is the mean squared error of "
        "the mean of both?",
        lambda g: {"clean": _normal(g, 6, 0.5, 0.2), "one": _normal(g, 6, 0.5, 0.2), "other": _normal(g, 6, 0.5, 0.2)},
        "answer = np.mean(((np.array(one) + np.array(other)) / 2 - np.array(clean)) ** 2)",
    ),
    "14": Exercise(
        "A cell of `patients` patients has a change of 0 with the interval -`half` to `half`. The half width falls "
        "with the root of the number of patients. How many patients make it `margin`?",
        lambda g: {
            "patients": int(g.integers(60, 400)),
            "half": round(g.uniform(0.1, 0.3), 4),
            "margin": round(g.uniform(0.02, 0.06), 4),
        },
        "answer = patients * (half / margin) ** 2",
    ),
    "15": Exercise(
        "Of the patients whose T1 image looks like this, a share `p` has oedema, which raises T2 by `rise` grey "
        "values. "
        "A network that sees T1 alone draws the best single value. What is its expected squared error in that place?",
        lambda g: {"p": round(g.uniform(0.1, 0.9), 3), "rise": round(g.uniform(0.1, 0.3), 3)},
        "answer = p * (1 - p) * rise**2",
    ),
    "16": Exercise(
        "`method` and `twin` hold the TPR of women and of men (in this order) after a method and after its twin. By "
        "how much did the method lower the size of the gap beyond what its twin did?",
        lambda g: {name: [round(float(v), 4) for v in g.uniform(0.4, 0.9, 2)] for name in ("method", "twin")},
        "answer = abs(twin[0] - twin[1]) - abs(method[0] - method[1])",
    ),
}
