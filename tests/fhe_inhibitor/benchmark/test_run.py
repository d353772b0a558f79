"""The plaintext benchmark on tiny points: schema, files, figures, and bad input."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from fhe_inhibitor.benchmark import energy
from fhe_inhibitor.benchmark.assembly import busiest_loop
from fhe_inhibitor.benchmark.kernels import KERNELS
from fhe_inhibitor.benchmark.report import PUBLISHED, plaintext_markdown, write_plaintext
from fhe_inhibitor.benchmark.run import (
    PlaintextResults,
    add_ablations,
    benchmark_plaintext,
)
from fhe_inhibitor.benchmark.tiles import FEATURES, LANES
from fhe_inhibitor.cli.main import _run
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import make_folder
from fhe_inhibitor.system.statistics import compare, fit_growth, summarize


@pytest.fixture(scope="module")
def results() -> PlaintextResults:
    return benchmark_plaintext((32, 96), repetitions=2)


def test_every_point_is_there_and_equals_the_reference(results) -> None:
    assert [(p.kernel, p.n) for p in results.points] == [
        (kernel, n) for n in (32, 96) for kernel in results.parameters.kernels
    ]
    assert {p.equals_reference for p in results.points if p.kernel in KERNELS} == {True}
    assert all(0 < p.seconds.low <= p.seconds.median <= p.seconds.high for p in results.points)
    assert set(results.growth) == set(results.parameters.kernels)


@pytest.mark.skipif(LANES != 32, reason="counts of AVX-512 instructions")
def test_inner_loops_hold_the_instructions_of_the_formula(results) -> None:
    loops = {(s.kernel, s.stage): s.loop for s in results.stages if s.loop}
    assert loops["inhibitor", "score"].arithmetic == 3  # subtract, absolute value, add
    assert loops["inhibitor", "mix"].arithmetic == 3  # subtract, maximum, add
    assert loops["inhibitor_maximum", "score"].arithmetic == 2
    assert loops["dot_product", "score"].arithmetic <= 2  # fused where the processor has VNNI
    assert {loop.registers for loop in loops.values()} == {"zmm"}


@pytest.mark.slow  # compiles for each processor anew
@pytest.mark.skipif("avx512vnni" not in FEATURES, reason="a processor with VNNI")
def test_without_vnni_a_product_takes_two_instructions() -> None:
    results = add_ablations(benchmark_plaintext((32,), ("dot_product",), repetitions=1))
    for feature, lanes in (("avx512vnni", 32), ("avx512f", 16)):
        run = results.without[feature]
        assert run.int16_lanes == lanes
        assert run.points[0].equals_reference
        assert [stage.loop.arithmetic for stage in run.stages if stage.loop] == [2, 2]
    assert "without avx512vnni" in plaintext_markdown(results)


def test_files_agree_with_the_schema(results, tmp_path) -> None:
    paths = write_plaintext(results, tmp_path)
    assert [path.suffix for path in paths] == [".json", ".csv", ".md", ".png", ".svg"]
    assert all(path.stat().st_size for path in paths)
    assert PlaintextResults.model_validate_json(paths[0].read_text()) == results
    with paths[1].open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["kernel"], int(r["n"])) for r in rows] == [(p.kernel, p.n) for p in results.points]


def test_report_names_machine_kernels_and_published_figures(results) -> None:
    text = plaintext_markdown(results)
    assert results.machine.processor in text and results.machine.commit in text
    assert "equals the NumPy reference exactly" in text
    assert "| dot product, published | 98.6 |  |" in text
    assert PUBLISHED["dot_product"][256] == 4.48e-3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--lengths", "0"], "length 0"),
        (["--lengths", "2048"], "length 2048"),
        (["--lengths", "33"], "length 33"),
        (["--lengths", ""], "length missing"),
        (["--lengths", "many"], "--lengths many"),
        (["--kernels", "softmax"], "unknown kernel softmax"),
        (["--repetitions", "0"], "0 repetitions"),
        (["--out", "/dev/null/results"], "can't write to the folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(options, said, capsys, tmp_path) -> None:
    assert _run(["benchmark", "plaintext", "--out", str(tmp_path), *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]


def test_folder_that_is_a_file_is_refused(tmp_path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(InputError, match="can't write to the folder"):
        make_folder(path)


def test_interval_of_the_median_covers_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(0).exponential(size=(1000, 15))
    intervals = [summarize(row.tolist()) for row in drawn]
    covered = np.mean([s.low <= np.log(2) <= s.high for s in intervals])
    assert intervals[0].confidence >= 0.95
    assert covered == pytest.approx(intervals[0].confidence, abs=0.02)
    assert summarize([1.0] * 3).confidence == 0.75


def test_ratio_ignores_what_slows_both() -> None:
    drift = np.linspace(1, 3, 21)
    ratio = compare((2 * drift).tolist(), drift.tolist())
    assert ratio.low == ratio.median == ratio.high == 2


def test_growth_of_a_power_with_noise_is_inside_its_interval() -> None:
    lengths = [32, 64, 128, 256]
    fit = fit_growth(lengths, [1.0 * 32**2, 1.1 * 64**2, 0.9 * 128**2, 1.0 * 256**2])
    assert fit is not None and fit.low is not None and fit.high is not None
    assert fit.low < 2 < fit.high
    assert fit_growth([32], [1.0]) is None


def test_energy_is_read_from_whole_packages_and_wraps(tmp_path) -> None:
    assert "there is no" in energy.unreadable(tmp_path / "powercap")
    counter = tmp_path / "intel-rapl:0"
    counter.mkdir()
    assert "names no package" in energy.unreadable(tmp_path)
    (counter / "energy_uj").write_text("900")
    (counter / "max_energy_range_uj").write_text("999")
    assert energy.unreadable(tmp_path) == ""
    joules = energy.measure_joules(lambda: (counter / "energy_uj").write_text("100"), tmp_path)
    assert joules == pytest.approx(200e-6)


def test_loop_without_vectors_is_none() -> None:
    assert busiest_loop(".LBB0_1:\n    addl %eax, %ecx\n    jne .LBB0_1\n", ["vpaddw"]) is None
