"""What of a run goes to the page."""

import numpy as np
import torch
from wire_examples import running

from cka_notebook import CKAResult
from cka_notebook._frames import Frames, Progress, floats

LAYERS = tuple(f"layer{k}" for k in range(501))
NAN = float("nan")


def large():
    """A running state of 501 x 501 layers."""
    torch.manual_seed(0)
    state = running(3)
    matrix = torch.rand(501, 501, dtype=torch.float64) * 0.8 + 0.2
    matrix[0, 0] = NAN
    state.layers1 = state.layers2 = LAYERS
    state.matrix = lambda: matrix
    state.stderr = lambda: matrix / 50
    return state


def test_a_large_map_goes_out_in_bytes_and_its_last_frame_bit_for_bit():
    sent, state = [], large()
    frames = Frames(lambda header, buffers: sent.append((header, buffers)))
    frames.begin(1, state)
    frames.take(1.0, state)
    (header, (values, errors)) = sent[0]
    assert len(values) == len(errors) == 501 * 501
    codes, scale = np.frombuffer(values, "u1"), header["codes"]
    assert codes[0] == 255
    read = scale["low"] + codes[1:] * scale["step"]
    wanted = floats(state.matrix()).ravel()
    np.testing.assert_allclose(read, wanted[1:], atol=0.51 * scale["step"])

    result = CKAResult(
        state.matrix(), state.stderr(), LAYERS, LAYERS, "A", "B", examples=1, batches=1
    )
    traits = frames.hold(Progress(batches=4), result, final=True)
    last, buffers = sent[-1]
    assert "codes" not in last
    assert buffers[0] == traits["_matrix"] == floats(result.matrix).tobytes()


def test_a_smaller_map_goes_out_as_float32():
    sent, state = [], running(3)
    frames = Frames(lambda header, buffers: sent.append((header, buffers)))
    frames.begin(1, state)
    frames.take(1.0, state)
    assert "codes" not in sent[0][0]
    assert sent[0][1][0] == floats(state.matrix()).tobytes()
