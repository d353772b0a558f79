"""The page: accuracies of both students, the lookups of an image, and images decrypted."""

from __future__ import annotations

from statistics import median

from demos.digits.results import DOT_PRODUCT, INHIBITOR, KINDS, Encrypted, Results
from fhe_inhibitor.system.pages import decimal_size, markdown_table
from fhe_inhibitor.system.statistics import Share

TITLES = {INHIBITOR: "inhibitor", DOT_PRODUCT: "dot product"}


def to_markdown(results: Results) -> str:
    """Return the page."""
    n_patches = (results.image_size[0] * results.image_size[1]) // (
        results.patch[0] * results.patch[1]
    )
    students = {kind: results.students[kind] for kind in KINDS if kind in results.students}
    lines = [
        "# Images under encryption",
        "",
        "A one-layer transformer classifies images that it can't see. Made by `python -m "
        "demos.digits`; no figure was entered by hand.",
        "",
        f"The images are {results.source}: {results.n_train:,} to train on, {results.n_test} to "
        f"test on, {results.image_size[0]} x {results.image_size[1]} pixels each. The client cuts "
        f"an image into {n_patches} patches of {results.patch[0]} x {results.patch[1]} pixels, "
        "embeds each by a linear map and adds its position, all in the clear, as it does with the "
        "words of a text. It encrypts the integers that come of it. The stages after that are "
        "those that texts run through: `project`, `attend`, `feed_forward`, `classify`. The layer "
        "has one query, the classifier's. Both students have the same shape, bit widths, training "
        "and kinds of tables.",
        "",
        "## Accuracy",
        "",
        "On the test split, % with Wilson's interval of 95%. With noise: rounding noise of "
        f"encryption drawn, mean of {next(iter(students.values())).draws if students else 0} "
        "draws. Sizes and bit widths were chosen by a look at this split, so all figures are a "
        "little too good.",
        "",
        *markdown_table(
            ["", "float", "integers", "integers, with noise", "training, s"],
            [
                [
                    TITLES[kind],
                    *map(_percent, (s.in_float, s.exact, s.noisy)),
                    f"{s.training_s:.0f}",
                ]
                for kind, s in students.items()
            ],
        ),
        "",
        "## Lookups of an image",
        "",
        "By stage (heads of `attend` together), and in all by bit width. Complexity is that of "
        "Concrete's optimizer.",
        "",
        *markdown_table(
            ["", "project", "attend", "feed_forward", "classify", "in all", "complexity"],
            [
                [
                    TITLES[kind],
                    *(
                        f"{sum(n for name, n in s.stages.items() if part in name):,}"
                        for part in ("project", "attend", "feed_forward", "classify")
                    ),
                    ", ".join(f"{count:,} of {width} bits" for width, count in s.lookups.items()),
                    f"{s.complexity:.2e}",
                ]
                for kind, s in students.items()
            ],
        ),
        "",
        "## Images decrypted",
        "",
    ]
    encrypted = {k: s.encrypted for k, s in students.items() if s.encrypted and s.encrypted.images}
    if not encrypted:
        return "\n".join([*lines, "None yet.", ""])
    machines = dict.fromkeys(found.machine.describe() for found in encrypted.values() if found)
    lines += [
        "The first images of the test split, mechanisms in turn. Seconds: median and range, from "
        f"encryption to logits. {'; '.join(machines)}.",
        "",
        *markdown_table(
            (
                "", "images", "right", "label as of the integers", "seconds", "load average",
                "lookups times their own seconds", "keys made, s", "evaluation keys", "request",
                "response",
            ),
            [
                [TITLES[kind], *_decrypted(found, students[kind].lookups)]
                for kind, found in encrypted.items()
                if found
            ],
        ),
    ]  # fmt: skip
    if INHIBITOR in encrypted and DOT_PRODUCT in encrypted:
        inhibitor, dot_product = (
            median(image.seconds for image in found.images)
            for kind in KINDS
            if (found := encrypted[kind])
        )
        lines += ["", f"The dot product takes {dot_product / inhibitor:.2f} times as long."]
    return "\n".join([*lines, ""])


def _decrypted(found: Encrypted, lookups: dict[int, int]) -> list[str]:
    images = found.images
    seconds = [image.seconds for image in images]
    loads = [image.load_average for image in images]
    predicted = sum(count * found.lookup_s.get(bits, 0.0) for bits, count in lookups.items())
    return [
        str(len(images)),
        str(sum(image.found == image.label for image in images)),
        str(sum(image.found == image.expected for image in images)),
        f"{median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})",
        f"{min(loads):.1f} to {max(loads):.1f}",
        f"{predicted:.1f}",
        "" if found.keygen_s is None else f"{found.keygen_s:.1f}",
        decimal_size(found.evaluation_keys_bytes),
        decimal_size(images[-1].request_bytes),
        decimal_size(images[-1].response_bytes),
    ]


def _percent(share: Share) -> str:
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"
