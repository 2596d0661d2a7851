"""A small PNG of a map."""

import struct
import zlib

import numpy as np
import pytest

from cka_notebook._figures.png import UNDEFINED_COLOR, png

GRAYS = [f"#{value:02x}{value:02x}{value:02x}" for value in range(256)]


def pixels(picture):
    """RGB values of a PNG with a color table and filter type 2."""
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(picture):
        [size] = struct.unpack(">I", picture[at : at + 4])
        kind = picture[at + 4 : at + 8]
        data = picture[at + 8 : at + 8 + size]
        [check] = struct.unpack(">I", picture[at + 8 + size : at + 12 + size])
        assert check == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + size
    width, height, *kinds = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert kinds == [8, 3, 0, 0, 0]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8)
    lines = lines.reshape(height, width + 1)
    assert set(lines[:, 0]) == {2}
    indices = np.cumsum(lines[:, 1:], axis=0, dtype=np.uint8)
    return np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[indices]


def test_each_cell_has_the_color_of_its_value_and_undefined_cells_are_gray():
    matrix = np.array([[0.0, 1.0, 0.5], [-0.125, 9.0, np.nan]])
    picture = pixels(png(matrix, GRAYS, (0.0, 1.0)))
    scale = picture.shape[1] // 3
    assert picture.shape == (2 * scale, 3 * scale, 3)
    cells = picture[scale // 2 :: scale, scale // 2 :: scale]
    assert cells[0, :2].tolist() == [[0] * 3, [255] * 3]
    assert cells[1, :2].tolist() == [[42, 157, 143], [255] * 3], "the color below zero"
    assert abs(int(cells[0, 2, 0]) - 128) <= 1
    assert tuple(cells[1, 2]) == UNDEFINED_COLOR


def test_greyed_cells_show_neither_their_value_nor_undefined():
    matrix = np.array([[0.0, 0.5], [np.nan, 0.0]])
    picture = pixels(png(matrix, GRAYS, (0.0, 1.0), greyed=np.eye(2, dtype=bool)))
    scale = picture.shape[0] // 2
    cells = picture[scale // 2 :: scale, scale // 2 :: scale]
    assert cells[0, 0].tolist() == cells[1, 1].tolist() == [0x77] * 3
    assert tuple(cells[1, 0]) == UNDEFINED_COLOR
    assert abs(int(cells[0, 1, 0]) - 128) <= 1


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (600, 600), (3, 900)])
def test_a_picture_is_small_even_of_noise(shape):
    noise = np.random.default_rng(0).random(shape)
    picture = png(noise, GRAYS, (0.0, 1.0))
    assert len(picture) <= 60_000
    assert max(pixels(picture).shape[:2]) <= 600


def test_a_flat_map_can_be_drawn_in_its_own_range():
    picture = pixels(png(np.full((2, 2), 0.7), GRAYS, (0.7, 0.7)))
    assert len(np.unique(picture)) == 1
