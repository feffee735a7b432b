"""Adversarial images against the target of submission.yml. This attack works; put yours in its place.

python make_images.py
"""

from __future__ import annotations

from pathlib import Path

from robustiqa.attacks import load_attack
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.images import quantise, save_png
from robustiqa.bench.submission.metadata import BreakSubmission, file_of, read_submission
from robustiqa.defenses import load_defense

FOLDER = Path(__file__).parent
ATTACK = "quantised-pgd"
"""It searches among images with 8 bits, so that nothing is lost when they are saved."""


def main() -> None:
    """Write an image for each of the data set."""
    submission = read_submission(FOLDER)
    assert isinstance(submission, BreakSubmission)
    target = submission.target
    g = load_defense(target.defense, load_metric(target.metric))
    dataset, attack = load_dataset(target.dataset), load_attack(ATTACK)
    for k, item in enumerate(dataset.items):
        result = attack(g, dataset.load(k)[None], target.threat, target.direction)
        path = save_png(quantise(result.adversarial[0]), FOLDER / submission.images / file_of(item.id))
        print(f"{path}: {result.gain_8bit[0]:+.3f} in the metric's units")


if __name__ == "__main__":
    main()
