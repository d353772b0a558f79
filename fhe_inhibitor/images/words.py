"""Images of words and what is written on them: the IAM words, or words that are rendered here.

IAM's handwritten words may be used for research by whoever registers with its authors, so they are
read from a user's own copy: `words.txt` and the folder `words`. Offline there are rendered words:
English words in matplotlib's fonts, slanted, stretched, moved and blurred at random. Those are
easier than handwriting and no substitute for it.

Every image is `HEIGHT` x `WIDTH` pixels, ink is bright, 0 ... 255.
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from fhe_inhibitor.errors import InputError

HEIGHT, WIDTH = 16, 64
IAM, RENDERED = "IAM words", "rendered words"
MIN_LETTERS, MAX_LETTERS = 3, 8
TEST_SHARE = 0.2
SIZES = (10, 11, 12, 13)
# Of a checkpoint of the package: its words are English, the most frequent first.
WORD_LIST = Path(__file__).parents[1] / "checkpoints/inhibidistilbert-nano-sst2/tokenizer.json"


@dataclass(frozen=True)
class WordImages:
    """Images uint8 `[n, HEIGHT, WIDTH]` and the word on each."""

    images: np.ndarray
    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class WordSplits:
    """What to train on and what to measure on; no word, or no form, is in both.

    alphabet: every letter of either. source: where both come from, for the reader.
    """

    train: WordImages
    test: WordImages
    alphabet: str
    source: str


def render_words(n_train: int = 6000, n_test: int = 1000, seed: int = 0) -> WordSplits:
    """Return rendered words; those to measure on are other words than those to train on."""
    rng = np.random.default_rng(seed)
    words = rng.permutation(_english_words())
    n_other = round(TEST_SHARE * len(words))
    fonts = _fonts()

    def draw(choice: np.ndarray, n: int) -> WordImages:
        drawn = [str(word) for word in rng.choice(choice, n)]
        images = [_render(word, fonts[rng.integers(len(fonts))], rng) for word in drawn]
        return WordImages(np.stack(images), tuple(drawn))

    test = draw(words[:n_other], n_test)
    return WordSplits(draw(words[n_other:], n_train), test, string.ascii_lowercase, RENDERED)


def load_iam(folder: str | Path, seed: int = 0) -> WordSplits:
    """Return IAM's words that were segmented well, a fifth of its forms to measure on.

    folder: holds words.txt (or ascii/words.txt) and words/. Raises InputError for a folder that
    doesn't, and for one without words.
    """
    folder = Path(folder)
    lists = [folder / "words.txt", folder / "ascii" / "words.txt"]
    found = next((path for path in lists if path.is_file()), None)
    if found is None:
        raise InputError(f"{folder} has no words.txt: pass a folder of the IAM words")
    rows = [line.split(" ", 8) for line in found.read_text(encoding="utf-8").splitlines()]
    # id, segmentation, grey level, x, y, width, height, grammatical tag, word
    known = [(row[0], row[8]) for row in rows if len(row) == 9 and row[1] == "ok"]
    known = [(name, word) for name, word in known if len(word) <= WIDTH // 4]
    forms = sorted({_form(name) for name, _ in known})
    if len(forms) < 2:
        raise InputError(f"{found} lists words of {len(forms)} forms: wanted two or more")
    n_other = max(1, round(TEST_SHARE * len(forms)))
    apart = set(np.random.default_rng(seed).permutation(forms)[:n_other].tolist())

    def read(is_test: bool) -> WordImages:
        chosen = [(name, word) for name, word in known if (_form(name) in apart) == is_test]
        images = [_read_iam(folder / "words", name) for name, _ in chosen]
        return WordImages(np.stack(images), tuple(word for _, word in chosen))

    alphabet = "".join(sorted({letter for _, word in known for letter in word}))
    return WordSplits(read(False), read(True), alphabet, IAM)


def fit(image: Image.Image) -> Image.Image:
    """Return an image with bright ink on black, no wider than `WIDTH`, on a canvas of that size."""
    scale = min(HEIGHT / image.height, WIDTH / image.width)
    size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    canvas = Image.new("L", (WIDTH, HEIGHT))
    canvas.paste(image.resize(size, Image.Resampling.BILINEAR), (0, (HEIGHT - size[1]) // 2))
    return canvas


def _render(word: str, font: ImageFont.FreeTypeFont, rng: np.random.Generator) -> np.ndarray:
    canvas = Image.new("L", (3 * WIDTH, 3 * HEIGHT))
    ImageDraw.Draw(canvas).text((WIDTH // 2, HEIGHT), word, fill=255, font=font)
    slant, stretch = rng.uniform(-0.3, 0.3), rng.uniform(0.85, 1.15)
    turned = canvas.transform(
        canvas.size, Image.Transform.AFFINE, (stretch, slant, -slant * HEIGHT, 0, 1, 0),
        Image.Resampling.BILINEAR,
    )  # fmt: skip
    box = turned.getbbox()
    assert box is not None
    image = fit(turned.crop(box)).filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6)))
    noise = rng.normal(0, 12, (HEIGHT, WIDTH))
    return (np.asarray(image, np.float64) + noise).clip(0, 255).astype(np.uint8)


def _read_iam(folder: Path, name: str) -> np.ndarray:
    form = _form(name)
    path = folder / form.split("-")[0] / form / f"{name}.png"
    try:
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"))
    except OSError as error:
        raise InputError(f"{path} can't be read as an image: {error}") from error
    return np.asarray(fit(Image.fromarray(255 - grey)))


def _form(name: str) -> str:
    """Return the form that a word stands on: `a01-000u` of `a01-000u-00-00`."""
    return "-".join(name.split("-")[:2])


@cache
def _english_words() -> list[str]:
    entries = json.loads(WORD_LIST.read_text(encoding="utf-8"))["model"]["vocab"]
    names = entries if isinstance(entries, dict) else [entry for entry, _ in entries]
    lengths = range(MIN_LETTERS, MAX_LETTERS + 1)
    words = {name.removeprefix("\u2581") for name in names}
    letters = set(string.ascii_lowercase)
    return sorted(word for word in words if len(word) in lengths and set(word) <= letters)


@cache
def _fonts() -> list[ImageFont.FreeTypeFont]:
    """Return the text fonts that matplotlib brings, whatever the system has, in each size."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    named = [*folder.glob("DejaVuSans*.ttf"), *folder.glob("DejaVuSerif*.ttf")]
    paths = sorted(path for path in named if "Display" not in path.name)
    return [ImageFont.truetype(str(path), size) for path in paths for size in SIZES]
