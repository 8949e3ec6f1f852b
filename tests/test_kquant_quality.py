"""The block quantizers lose no more than llama.cpp's do, on the same weights.

Its errors are frozen here; where llama-cpp-python is installed, its quantizer runs beside ours as well.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "bench"))

import kquant_quality
from ggml import Ggml, Missing
from kquant_quality import DISTRIBUTIONS, TYPES, of_llama, of_qcore, relative_error, samples

# Relative squared errors of llama-cpp-python 0.3.36: plain and weighted, for each of DISTRIBUTIONS.
LLAMA = {
    "Q4_0": (7.398610e-03, 6.054846e-03, 1.134075e-02, 9.852850e-03, 7.582527e-03, 6.161532e-03),
    "Q4_1": (6.131188e-03, 4.120294e-03, 8.369772e-03, 5.753795e-03, 6.217958e-03, 4.083269e-03),
    "Q5_0": (1.829146e-03, 1.495045e-03, 2.828836e-03, 2.470899e-03, 1.872190e-03, 1.519626e-03),
    "Q5_1": (1.435348e-03, 9.663512e-04, 1.959124e-03, 1.351798e-03, 1.454934e-03, 9.602944e-04),
    "Q8_0": (2.872582e-05, 2.875479e-05, 4.478260e-05, 4.534390e-05, 2.949565e-05, 2.978888e-05),
    "Q2_K": (8.796121e-02, 5.676815e-02, 1.179503e-01, 7.163418e-02, 8.907275e-02, 5.611342e-02),
    "Q3_K": (2.279197e-02, 1.820895e-02, 3.083382e-02, 2.556092e-02, 2.314841e-02, 1.833018e-02),
    "Q4_K": (5.098210e-03, 4.236099e-03, 7.104377e-03, 5.984255e-03, 5.179155e-03, 4.221087e-03),
    "Q5_K": (1.309672e-03, 1.096132e-03, 1.820712e-03, 1.565389e-03, 1.329591e-03, 1.095606e-03),
    "Q6_K": (3.166646e-04, 2.648876e-04, 4.693919e-04, 4.091811e-04, 3.222112e-04, 2.663513e-04),
    "IQ4_NL": (5.827050e-03, 5.019312e-03, 7.676359e-03, 6.707212e-03, 5.889503e-03, 5.010112e-03),
    "IQ4_XS": (5.917384e-03, 5.129114e-03, 7.800028e-03, 6.881474e-03, 5.980957e-03, 5.120509e-03),
    "TQ1_0": (6.537580e-01, 6.556712e-01, 6.903704e-01, 6.973398e-01, 6.616152e-01, 6.649663e-01),
    "TQ2_0": (6.537580e-01, 6.556712e-01, 6.903704e-01, 6.973398e-01, 6.616152e-01, 6.649663e-01),
    "MXFP4": (1.306775e-02, 1.303666e-02, 1.582917e-02, 1.580330e-02, 1.357102e-02, 1.360641e-02),
}
# Where both round to nearest on the same grid, the order of float operations moves the last digits.
SLACK = 1 + 1e-3


@pytest.fixture(scope="module")
def llama() -> Ggml:
    try:
        library = Ggml.load()
    except Missing as reason:
        pytest.skip(str(reason))
    return library


def test_every_type_has_frozen_errors() -> None:
    assert set(LLAMA) == set(TYPES)


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_errors_are_no_larger_than_those_of_llama(type: str, distribution: str, weighted: bool) -> None:
    theirs = LLAMA[type][2 * DISTRIBUTIONS.index(distribution) + weighted]
    ours = relative_error(of_qcore(), type, samples(distribution), weighted)
    assert ours <= theirs * SLACK


@pytest.mark.peers
@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_frozen_errors_are_those_of_llama(
    llama: Ggml, type: str, distribution: str, weighted: bool
) -> None:
    frozen = LLAMA[type][2 * DISTRIBUTIONS.index(distribution) + weighted]
    assert relative_error(of_llama(llama), type, samples(distribution), weighted) == pytest.approx(
        frozen, rel=1e-3
    )


@pytest.mark.peers
@pytest.mark.parametrize("type", TYPES)
def test_other_weights_lose_no_more_than_with_llama(llama: Ggml, type: str) -> None:
    """Weights that no figure was frozen for: rows and columns of different size, importance that differs
    more, another layer."""
    rng = np.random.RandomState(7)
    normal = rng.standard_normal((256, 1024))
    rows, columns = np.exp(rng.standard_normal((256, 1))), np.exp(rng.standard_normal(1024))
    even, uneven = rng.chisquare(1, 1024), np.exp(2 * rng.standard_normal(1024))
    cases = [
        [kquant_quality.Sample(w.astype(np.float32), importance.astype(np.float32))]
        for w, importance in ((normal * rows, even), (normal * columns, even), (normal, uneven))
    ]
    for given in (*cases, samples("model", layers=(5,))):
        for weighted in (False, True):
            ours = relative_error(of_qcore(), type, given, weighted)
            assert ours <= relative_error(of_llama(llama), type, given, weighted) * SLACK
