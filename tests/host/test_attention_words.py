# SPDX-License-Identifier: Apache-2.0
"""The study of SOFT and Sinkformer: its pieces are the formulas, and its figures those that the docs draw on."""

from __future__ import annotations

import numpy as np
import pytest
from edgemoe.host.studies import attention_words as study
from edgemoe.models import checkpoint as checkpoints

RANDOM = np.random.default_rng(0)


def test_newton_inverts() -> None:
    points = RANDOM.normal(size=(12, 6))
    matrix = study.kernel(points, points) + study.RIDGE * np.eye(12)
    np.testing.assert_allclose(study.newton(matrix) @ matrix, np.eye(12), atol=1e-9)
    errors = [np.abs(study.newton(matrix, bits) @ matrix - np.eye(12)).max() for bits in (12, 16, 24)]
    assert errors[0] > errors[1] > errors[2] > 1e-8


@pytest.mark.parametrize("bits", [4, 16, 32])
def test_rounding_is_that_of_words_with_one_exponent(bits: int) -> None:
    x = RANDOM.normal(size=100)
    found = study.rounded(x, bits)
    step = 2.0 ** (np.ceil(np.log2(np.abs(x).max())) - bits + 1)
    assert np.abs(found - x).max() <= step and np.abs(found / step - np.round(found / step)).max() == 0
    assert np.abs(found / step).max() <= 2 ** (bits - 1)


def test_landmarks_are_means_of_patches() -> None:
    query = RANDOM.normal(size=(1 + 5 * 4, 3))  # a token, then 5 x 4 patches, the last row of which has no partner
    found = study.landmarks(query, (5, 4))
    patches = query[1:].reshape(5, 4, 3)
    assert found.shape == (4, 3)
    np.testing.assert_allclose(found[3], patches[2:4, 2:4].mean(axis=(0, 1)))


def test_soft_approaches_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all patches of a landmark are alike, and with next to no ridge, it is the whole kernel times the values."""
    monkeypatch.setattr(study, "RIDGE", 1e-10)
    query = RANDOM.normal(size=(3, 2, 4)).repeat(2, axis=0).repeat(2, axis=1).reshape(24, 4)
    value = RANDOM.normal(size=(24, 4))
    q = query / 4**0.25
    np.testing.assert_allclose(study.soft(query, value, (6, 4)), study.kernel(q, q) @ value, atol=1e-6)


def test_sinkhorn() -> None:
    weights = study.sinkhorn(RANDOM.normal(size=(9, 9)), 50)
    np.testing.assert_allclose([weights.sum(axis=0), weights.sum(axis=1)], 1, atol=1e-9)


def test_eight_bits() -> None:
    x = np.array([[127.0, 2.5], [-2.5, 0.4], [1.0, -0.5]])
    np.testing.assert_allclose(study.eight_bits(x, 2), [[127, 3], [-3, 0], [1, -64 / 127]])
    query, key, value = RANDOM.normal(size=(3, 70, 8))
    exact = study.softmax(query @ key.T / np.sqrt(8)) @ value
    for centred in (False, True):  # the mean cancels; what keys have in common costs bits
        assert study.decibels(exact, study.sage(query, key, value, centred)) > 30
    common = key + 20
    found = [study.decibels(exact, study.sage(query, common, value, centred)) for centred in (False, True)]
    assert found[1] > found[0] + 10


def test_what_a_trained_model_needs(capsys: pytest.CaptureFixture[str]) -> None:
    """16 bits do not carry Newton's iteration, 24 do."""
    found = study.study(checkpoints.load("m3vit-micro"), (16, 24))
    assert found.soft[16][0] < 45 < 60 < found.soft[24][0] <= found.converged[0] + 1
    assert found.words[0] > 70 and found.words[1] > 75  # 16 bits do with another iteration
    assert found.uneven[5] < found.uneven[1]
    study.table(found)
    assert "24 bits" in capsys.readouterr().out
