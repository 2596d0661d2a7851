"""Values as codes of one or two bytes."""

import numpy as np
import pytest
import torch

from cka_notebook._page.codes import error_codes, floats, value_codes


@pytest.mark.parametrize(("kind", "steps"), [(np.uint8, 254), (np.uint16, 65534)])
def test_codes_are_within_half_a_step_of_their_values(kind, steps):
    values = np.random.default_rng(0).uniform(-0.3, 1, 999).astype(np.float32)
    codes, scale = value_codes(values, kind)
    assert codes.dtype == kind
    assert scale["step"] == pytest.approx(np.ptp(values) / steps, rel=1e-5)
    read = scale["low"] + codes * scale["step"]
    np.testing.assert_allclose(read, values, atol=0.51 * scale["step"])


def test_the_largest_code_is_for_undefined_values_only():
    values = np.float32([np.nan, -1, 0, 1, np.inf])
    codes, _ = value_codes(values, np.uint8)
    assert codes.tolist() == [255, 0, 127, 254, 255]
    codes, most = error_codes(np.float32([np.nan, 0, 0.5]))
    assert (codes.tolist(), most) == ([255, 0, 254], 0.5)


@pytest.mark.parametrize("values", [[0.5, 0.5], [np.nan, np.nan], []])
def test_equal_values_and_no_values_have_codes(values):
    codes, scale = value_codes(np.float32(values), np.uint8)
    read = np.where(codes == 255, np.nan, scale["low"] + codes * scale["step"])
    np.testing.assert_array_equal(read, np.float32(values))


def test_errors_far_below_the_largest_stay_distinct():
    errors = np.float32([0.001, 0.002, 0.1])
    codes, most = error_codes(errors)
    np.testing.assert_allclose(most * (codes / 254) ** 2, errors, rtol=0.04)


def test_floats_are_little_endian_float32_in_row_major_order():
    matrix = torch.arange(6.0, dtype=torch.float64, requires_grad=True).reshape(2, 3).T
    values = floats(matrix)
    assert values.dtype.str == "<f4"
    assert np.frombuffer(values.tobytes(), "<f4").tolist() == [0, 3, 1, 4, 2, 5]
