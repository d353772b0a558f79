"""What is measured: a student's accuracies and costs, and images that are classified encrypted."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

from circuits.counts import count_lookups
from circuits.lookups import Lookup, exact_lookup, noisy_lookup
from compile.cost.report import estimate
from demos.digits.results import PACKAGES, Decrypted, Encrypted, KeptResults, Student
from fhe_inhibitor.images.data import ImageSplits
from fhe_inhibitor.integer.images import ImageModel
from fhe_inhibitor.runtime.keyring import Keyring
from fhe_inhibitor.system.files import write_atomically
from fhe_inhibitor.system.machine import describe_machine
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.statistics import share
from fhe_inhibitor.training.images import ImageTraining, train_images

DRAWS = 5
TRAINED_FILE = "trained.json"


def make_model(
    splits: ImageSplits, training: ImageTraining, folder: Path, observer: Observer
) -> ImageModel:
    """Train a student, or load the one that the folder holds."""
    if not (folder / TRAINED_FILE).exists():
        start = time.perf_counter()
        trained = train_images(splits, training, folder.name, observer)
        trained.model.write(folder)
        took = {"seconds": time.perf_counter() - start, "float_right": trained.float_right}
        write_atomically(folder / TRAINED_FILE, json.dumps(took) + "\n")
    return ImageModel.load(folder)


def measure_student(
    model: ImageModel, splits: ImageSplits, folder: Path, observer: Observer
) -> Student:
    """Return the accuracies on the test split and the lookups of an image."""
    trained = json.loads((folder / TRAINED_FILE).read_text(encoding="utf-8"))
    images, labels = splits.test.images, splits.test.labels
    n, n_patches = len(labels), len(model.positions)
    observer.begin(f"accuracy: {model.name}")
    seeds = (None, *range(DRAWS))
    observer.plan(len(seeds), "draws")
    right = []
    for seed in seeds:
        lookup = exact_lookup if seed is None else _noise(model, seed)
        right.append(int((model.predict(list(images), lookup) == labels).sum()))
        observer.finish(1)
    stages = count_lookups(model.network, n_patches)
    return Student(
        machine=describe_machine(PACKAGES),
        model_hash=model.hash,
        in_float=share(trained["float_right"], n),
        exact=share(right[0], n),
        noisy=share(float(np.mean(right[1:])), n),
        draws=DRAWS,
        training_s=trained["seconds"],
        lookups=dict(sorted(sum(stages.values(), Counter[int]()).items())),
        stages={stage: counts.total() for stage, counts in stages.items()},
        complexity=estimate(model.network, [n_patches], model.p_error).lengths[0].units,
    )


def encrypt_images(
    models: dict[str, ImageModel],
    splits: ImageSplits,
    n_images: int,
    results: KeptResults,
    work: Path,
    observer: Observer,
) -> None:
    """Classify the first images of the test split encrypted, those that the results lack.

    Mechanisms take turns, image by image. An image that was interrupted goes on after the last
    stage that was finished; its seconds are those of all stages.
    """
    # Here, because importing Concrete takes seconds that accuracies can spare.
    from compile.local.backends import Execution
    from compile.local.prepared import prepare

    backends = {}
    for kind, model in models.items():
        backends[kind] = Execution(model, prepare(model, Keyring(), observer=observer))
        if results.found.students[kind].encrypted is None:
            observer.begin("time lookups")
            setup = {stage.name: stage.seconds for stage in backends[kind].setup}
            encrypted = Encrypted(
                machine=describe_machine(PACKAGES),
                keygen_s=setup.get("keygen"),
                evaluation_keys_bytes=backends[kind].evaluation_keys_bytes,
                lookup_s=backends[kind].measure_lookups(),
            )
            results.add_encrypted(kind, encrypted)
    for index in range(min(n_images, len(splits.test))):
        for kind, model in models.items():
            found = results.found.students[kind].encrypted
            if found is None or index in {image.index for image in found.images}:
                continue
            image, label = splits.test.images[index], int(splits.test.labels[index])
            load = psutil.getloadavg()[0]
            observer.begin(f"image {index}: {kind}")
            answer = backends[kind].resume(
                [model.encode(image)], Observer(), work / f"{kind}-image{index}"
            )
            results.add_image(
                kind,
                Decrypted(
                    index=index,
                    label=label,
                    logits=tuple(answer.logits.tolist()),
                    clear_logits=tuple(model.integer_logits(image).tolist()),
                    seconds=sum(stage.seconds for stage in answer.stages),
                    load_average=round(load, 2),
                    request_bytes=answer.request_bytes,
                    response_bytes=answer.response_bytes,
                ),
            )


def _noise(model: ImageModel, seed: int) -> Lookup:
    return noisy_lookup(np.random.default_rng(seed), model.noise_std)
