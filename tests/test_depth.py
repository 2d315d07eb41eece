"""A file and the same values as an array, a PIL image or a tensor are the same picture, at any depth of pixels."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

from phosphene import explain, read_image
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import InputError, OptionError, PhospheneWarning
from phosphene.images import as_pictures, preprocess, to_pil, to_tensor
from phosphene.sources import open_source
from tests.pictures import scene

pytestmark = pytest.mark.filterwarnings("ignore:a picture in color is shown to a network of one channel")


def fine(height: int = 30, width: int = 44, bands: int = 3, seed: int = 0) -> np.ndarray:
    """(H, W, C) uint16 with structure and noise far below an eighth bit."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [0.5 + 0.4 * np.sin(rows / (3 + band) + columns / (5 - band / 4)) for band in range(bands)]
    return ((np.stack(waves, -1) + rng.normal(0, 0.002, (height, width, bands))).clip(0, 1) * 65535).astype(np.uint16)


def classifier(channels: int = 3, size: int = 16) -> Classifier:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).eval()
    return Classifier(net, Preprocess((size, size), size + 4, (0.5,) * channels, (0.25,) * channels), list("abcd"))


def seen(source: object, channels: int = 3) -> torch.Tensor:
    network = classifier(channels)
    pictures = as_pictures(source, channels)
    return network.preprocessed(pictures, network.views(pictures))


def png16(path, values: np.ndarray, *, extra: bytes = b"", filtered: int = 0):
    """A 16-bit PNG of 1 to 4 bands by hand, since Pillow writes only grey ones; each row filtered by `filtered`."""
    height, width, bands = values.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = values.astype(">u2").reshape(height, -1).view(np.uint8).reshape(height, -1)
    if filtered == 1:  # the difference to the pixel on the left, byte by byte
        left = np.zeros_like(rows)
        left[:, 2 * bands :] = rows[:, : -2 * bands]
        rows = rows - left
    body = b"".join(bytes([filtered]) + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(extra[:4], extra[4:]) if extra else b"")
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )
    return path


# --- the same picture, whatever it came in


@pytest.mark.parametrize("filtered", [0, 1])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_sixteen_bit_png_is_its_array(tmp_path, bands, filtered):
    values = fine(bands=bands)
    path = png16(tmp_path / "deep.png", values, filtered=filtered)
    expected = seen(values)
    assert torch.equal(seen(path), expected)
    assert torch.equal(seen((values / 65535).astype(np.float32)), expected)
    assert torch.equal(seen(values / 65535), expected)
    assert torch.equal(seen(torch.from_numpy(values / 65535).movedim(-1, 0)), expected)
    assert torch.equal(seen(torch.from_numpy(values).movedim(-1, 0)), expected)
    assert torch.equal(seen(values.astype(">u2")), expected)
    assert len(to_tensor(read_image(path)).unique()) > 500


def test_a_sixteen_bit_grey_picture_of_pillow_is_its_array(tmp_path):
    values = fine(bands=1)
    image = Image.fromarray(values[..., 0])
    image.save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as opened:
        for source in (image, opened, tmp_path / "deep.png", values[..., 0]):
            assert torch.equal(seen(source), seen(values))
            assert torch.equal(seen(source, 1), seen(values, 1))


def test_an_interlaced_sixteen_bit_png_is_read_whole(tmp_path):
    """Adam7 of a picture of one color: what counts is that both bytes come through."""
    height = width = 8
    value = np.array([0x1234, 0x56FE, 0x9A01], ">u2").tobytes()
    passes = [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8)]
    body = b"".join((b"\0" + value * columns) * rows for rows, columns in passes)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    (tmp_path / "i.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 1))
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )
    expected = torch.tensor([0x1234, 0x56FE, 0x9A01])[:, None, None] / 65535
    assert torch.allclose(to_tensor(read_image(tmp_path / "i.png")), expected.expand(3, 8, 8), atol=1e-7)


@pytest.mark.parametrize("bands", [2, 4])
def test_deep_transparency_is_laid_on_white_only_for_a_network_of_three(tmp_path, bands):
    values = fine(bands=bands)
    path = png16(tmp_path / "deep.png", values)
    unit = torch.from_numpy(values / 65535).movedim(-1, 0).float()
    colors, alpha = unit[:-1], unit[-1:]
    expected = (colors * alpha + 1 - alpha).expand(3, -1, -1)
    assert torch.allclose(to_tensor(as_pictures(path, 3)[0]), expected, atol=1e-6)
    assert torch.allclose(as_pictures(path, bands)[0], unit, atol=1e-7)
    if bands == 4:
        assert torch.equal(seen(values), seen(path))
        assert torch.equal(seen(values, 4), seen(path, 4))


def test_a_transparent_color_of_sixteen_bits_is_compared_at_sixteen_bits(tmp_path):
    values = np.full((4, 4, 3), 0x1200, np.uint16)
    values[0, 0] = 0x1201
    path = png16(tmp_path / "key.png", values, extra=b"tRNS" + struct.pack(">HHH", 0x1201, 0x1201, 0x1201))
    tensor = to_tensor(read_image(path))
    assert (tensor[:, 0, 0] == 1).all()
    assert torch.allclose(tensor[:, 1], torch.tensor(0x1200 / 65535))


def test_a_transparent_color_of_eight_bits_is_laid_on_white(tmp_path):
    image = Image.fromarray(scene())
    image.save(tmp_path / "key.png", transparency=(200, 0, 0))
    tensor = to_tensor(read_image(tmp_path / "key.png"))
    assert (tensor[:, -1, 0] == 1).all()
    assert torch.equal(tensor[:, -1, -1], torch.tensor([0, 0, 200 / 255]))
    with Image.open(tmp_path / "key.png") as opened:  # converted by hand, it shows what it shows
        shown = opened.convert("RGB")
    assert torch.equal(to_tensor(as_pictures(shown)[0]), to_tensor(as_pictures(np.asarray(shown))[0]))


def test_eight_bits_are_the_same_picture_in_any_container(tmp_path):
    """Published preprocessing resizes eight bits by Pillow; the same values in floats take the same way."""
    array = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    png16(tmp_path / "wide.png", array.astype(np.uint16) * 257)
    tifffile.imwrite(tmp_path / "f.tif", (array / 255).astype(np.float32), photometric="rgb")
    network = classifier()
    view = network.preprocess.view((33, 47))
    top, left, height, width = view.crop
    resized = Image.fromarray(array).resize(view.scaled[::-1], Image.Resampling.BICUBIC)
    resized = resized.crop((left, top, left + width, top + height))
    expected = torch.from_numpy(np.asarray(resized) / 255).movedim(-1, 0).float()[None]
    tensor = torch.from_numpy(array).movedim(-1, 0)
    sources = [
        tmp_path / "a.png",
        tmp_path / "wide.png",
        tmp_path / "f.tif",
        array,
        array.astype(np.uint16) * 257,
        array / 255,
        array * (1 / 255),
        (array / 255).astype(np.float32),
        (array / 255).astype(np.float16),
        tensor,
        tensor.float() / 255,
        tensor.double() / 255,
        Image.fromarray(array),
    ]
    for index, source in enumerate(sources):
        assert torch.equal(seen(source), expected), index


def test_explain_gives_the_same_map_for_a_file_and_its_array(tmp_path):
    values = fine()
    path = png16(tmp_path / "deep.png", values)
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric="rgb")
    expected = explain(classifier(), values, "saliency").maps
    for source in (path, tmp_path / "deep.tif", values / 65535, read_image(path)):
        assert torch.equal(explain(classifier(), source, "saliency").maps, expected)


def test_deep_pictures_are_resized_at_their_depth_and_like_eight_bits():
    """Within what rounding to eight bits twice can make: one step and a half."""
    values = fine(70, 90)
    view = classifier().preprocess.view((70, 90))
    for interpolation in ("bilinear", "bicubic", "nearest", "lanczos"):
        deep = preprocess(as_pictures(values)[0], view, interpolation=interpolation)
        eight = Image.fromarray((values / 257).round().astype(np.uint8))
        assert len(deep.unique()) > 256
        assert float((deep - preprocess(eight, view, interpolation=interpolation)).abs().max()) <= 1.5 / 255


def test_edges_of_deep_pictures_overshoot_no_more_than_eight_bits_do():
    array = np.random.default_rng(0).integers(0, 2, (41, 67, 3), dtype=np.uint8) * 255
    deep = (array.astype(np.uint16) * 257).copy()
    deep[deep == 65535] -= 3  # no longer eight bits
    view = classifier().preprocess.view((41, 67))
    got, expected = preprocess(as_pictures(deep)[0], view), preprocess(Image.fromarray(array), view)
    assert float((got - expected).abs().max()) <= 1.5 / 255


def test_twelve_bits(tmp_path):
    """sBIT tells how many of the sixteen count; written low or high, white is white."""
    values = (fine() >> 4).astype(np.uint16)
    expected = torch.from_numpy(values / 4095).movedim(-1, 0).float()
    sbit = b"sBIT" + bytes([12, 12, 12])
    low = to_tensor(read_image(png16(tmp_path / "low.png", values, extra=sbit)))
    high = to_tensor(read_image(png16(tmp_path / "high.png", values << 4, extra=sbit)))
    assert torch.allclose(low, expected, atol=1e-6)
    assert torch.allclose(high, expected, atol=3e-4)
    plain = png16(tmp_path / "plain.png", values)
    with pytest.warns(PhospheneWarning, match=r"nearly black.*white=4095"):
        from_array = seen(values)
    with pytest.warns(PhospheneWarning, match=r"nearly black.*white=4095"):
        assert torch.equal(seen(plain), from_array)
    assert torch.allclose(to_tensor(read_image(plain, black=0, white=4095)), expected, atol=1e-6)


# --- NumPy


def test_an_array_in_a_file_is_the_picture_that_the_same_tiff_is(tmp_path):
    bands = (fine(bands=13) // 7).astype(np.uint16)
    np.save(tmp_path / "tile.npy", bands)
    np.save(tmp_path / "float.npy", bands.astype(np.float32))
    tifffile.imwrite(tmp_path / "tile.tif", bands, photometric="minisblack", planarconfig="contig")
    expected = read_image(tmp_path / "tile.tif", 13, white=10000)
    for name in ("tile.npy", "float.npy"):
        assert torch.equal(read_image(tmp_path / name, 13, white=10000), expected)
    np.save(tmp_path / "grey.npy", bands[..., 0])
    assert torch.equal(to_tensor(read_image(tmp_path / "grey.npy")), to_tensor(as_pictures(bands[..., 0])[0]))


def test_arrays_in_files_that_are_no_picture_are_refused_by_name(tmp_path):
    place = tmp_path / "tile.npy"
    for array, words in (
        (
            np.zeros((13, 64, 64), np.float32),
            r"64 bands for a network of 13 channels; .*save array.transpose\(1, 2, 0\)",
        ),
        (np.zeros((2, 8, 8, 13)), r"an array of shape \(2, 8, 8, 13\); a file holds one picture"),
        (np.full((8, 8, 13), 5000.0), r"beyond \[0, 1\].*--white"),
        (np.array([{}], object), "no readable array .it holds objects, which would run code"),
        (np.full((8, 8), "a"), "holds values of type <U1"),
    ):
        np.save(place, array)
        with pytest.raises(InputError, match=f"tile.npy: .*{words}"):
            read_image(place, 13)
    place.write_bytes(place.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"tile\.npy: no readable array"):
        read_image(place)


# --- TIFF


def test_pillow_says_nothing_of_its_own_about_many_bands(tmp_path, capfd):
    place = tmp_path / "bands.tif"
    tifffile.imwrite(place, fine(bands=13), photometric="minisblack", planarconfig="contig")
    read_image(place)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<f4", ">f4", "<f2", "<f8"])
@pytest.mark.parametrize("bands", [1, 3, 6])
@pytest.mark.parametrize("plan", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_is_its_array(tmp_path, kind, bands, plan, compression):
    values = fine(bands=bands)
    if kind[1] == "f":
        values = values / 65535
    values = values.astype(kind)
    stored = values[..., 0] if bands == 1 else values
    if bands > 1 and plan == "separate":
        stored = np.moveaxis(stored, -1, 0)
    options = {"planarconfig": plan} if bands > 1 else {}
    photometric = "rgb" if bands == 3 else "minisblack"
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, stored, photometric=photometric, byteorder=kind[0], compression=compression, metadata=None, **options
    )
    channels = 3 if bands == 1 else bands
    assert torch.equal(seen(path, channels), seen(values, channels))


def test_a_tiff_written_without_a_word_about_bands_is_the_array_it_was(tmp_path):
    values = fine(bands=6)
    tifffile.imwrite(tmp_path / "a.tif", values)
    assert torch.equal(seen(tmp_path / "a.tif", 6), seen(values, 6))
    eight = (values >> 8).astype(np.uint8)
    tifffile.imwrite(tmp_path / "b.tif", eight)
    assert torch.equal(seen(tmp_path / "b.tif", 6), seen(eight, 6))
    with pytest.raises(InputError, match=r"b\.tif: 6 bands .*network of 3"):
        as_pictures(tmp_path / "b.tif", 3)
    tifffile.imwrite(tmp_path / "c.tif", np.moveaxis(values, -1, 0))
    with pytest.raises(InputError, match=r"c\.tif: "):
        as_pictures(tmp_path / "c.tif", 6)


def test_channels_of_imagej_and_ome_are_bands_and_stacks_give_the_first(tmp_path):
    values = fine(bands=5)
    planes = np.moveaxis(values, -1, 0)
    tifffile.imwrite(tmp_path / "ij.tif", planes, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "ome.ome.tif", planes, ome=True, metadata={"axes": "CYX"}, photometric="minisblack")
    for name in ("ij.tif", "ome.ome.tif"):
        assert torch.equal(seen(tmp_path / name, 5), seen(values, 5))
    tifffile.imwrite(tmp_path / "stack.tif", planes, imagej=True, metadata={"axes": "ZYX"})
    assert torch.equal(seen(tmp_path / "stack.tif"), seen(values[..., 0]))


def test_the_fourth_band_of_a_tiff_is_transparency_only_if_it_says_so(tmp_path):
    values = fine(bands=4)
    for kind in (np.uint16, np.uint8):
        array = values if kind is np.uint16 else (values >> 8).astype(kind)
        tifffile.imwrite(tmp_path / "alpha.tif", array, photometric="rgb", extrasamples=["unassalpha"])
        tifffile.imwrite(tmp_path / "nir.tif", array, photometric="rgb", extrasamples=["unspecified"])
        assert torch.equal(seen(tmp_path / "alpha.tif"), seen(array))
        assert torch.equal(seen(tmp_path / "alpha.tif", 4), seen(array, 4))
        assert torch.equal(seen(tmp_path / "nir.tif", 4), seen(array, 4))
        with pytest.raises(InputError, match=r"nir\.tif: 4 bands .*network of 3"):
            as_pictures(tmp_path / "nir.tif", 3)


def test_premultiplied_transparency_is_not_multiplied_again(tmp_path):
    values = np.full((4, 4, 4), 0.5, np.float32)
    values[..., :3] = 0.25
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["assocalpha"])
    assert torch.allclose(to_tensor(read_image(tmp_path / "a.tif")), torch.tensor(0.75))


def test_white_is_zero_is_turned_round(tmp_path):
    values = fine(bands=1)[..., 0]
    tifffile.imwrite(tmp_path / "w.tif", 65535 - values, photometric="miniswhite")
    assert torch.allclose(seen(tmp_path / "w.tif"), seen(values), atol=1e-6)


def test_orientation_of_a_deep_tiff_is_honoured(tmp_path):
    values = scene().astype(np.uint16) * 250 + 3
    stored = {1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1], 5: np.swapaxes(values, 0, 1)}
    stored |= {6: np.rot90(values), 7: np.rot90(np.swapaxes(values, 0, 1), 2), 8: np.rot90(values, -1)}
    for orientation, array in stored.items():
        path = tmp_path / f"{orientation}.tif"
        tifffile.imwrite(path, array, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
        assert torch.equal(to_tensor(read_image(path)), to_tensor(as_pictures(values)[0])), orientation


def test_a_compressed_deep_tiff_is_read_or_refused(tmp_path):
    values = fine()
    Image.fromarray(values[..., 0]).save(tmp_path / "grey.tif", compression="tiff_lzw")
    assert torch.equal(seen(tmp_path / "grey.tif"), seen(values[..., 0]))
    real = (values[..., 0] / 65535).astype(np.float32)
    Image.fromarray(real).save(tmp_path / "real.tif", compression="tiff_lzw")
    assert torch.equal(seen(tmp_path / "real.tif"), seen(real))


# --- refused in one line


def refused(source: object, channels: int | None = None) -> str:
    with pytest.raises(InputError) as caught:
        as_pictures(source, channels)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        (np.full((8, 8), 200, np.float32), "divide by 255"),
        (np.full((8, 8), 3000, np.float32), "black and white"),
        (np.full((8, 8), -0.5, np.float32), "black and white"),
        (np.full((8, 8), np.nan, np.float32), "NaN"),
        (np.full((8, 8), np.inf, np.float32), "infinit"),
        (np.full((8, 8), 100, np.int16), "signed"),
        (np.full((8, 8), -100, np.int32), "signed"),
        (np.full((8, 8), 100, np.int8), "signed"),
        (np.full((8, 8), 100, np.uint32), "uint32"),
    ],
    ids=lambda value: f"{value.dtype}_{value.flat[0]}" if isinstance(value, np.ndarray) else None,
)
def test_values_without_a_known_scale_are_refused_in_files_and_arrays(tmp_path, values, hint):
    path = tmp_path / "values.tif"
    tifffile.imwrite(path, values)
    message = refused(path)
    assert "values.tif" in message
    assert "black=" in message or hint == "NaN" or hint == "infinit"
    for text in (message, refused(values)):
        assert hint in text or (hint == "black and white" and "pass" in text)


def test_the_scale_can_be_said(tmp_path):
    values = np.linspace(-1000, 3000, 64).reshape(8, 8).astype(np.int16)
    tifffile.imwrite(tmp_path / "ct.tif", values)
    read = to_tensor(read_image(tmp_path / "ct.tif", black=-200, white=300))
    expected = torch.from_numpy(((values.astype(float) + 200) / 500).clip(0, 1)).float()
    assert torch.allclose(read, expected.expand(3, -1, -1), atol=1e-6)
    turned = to_tensor(read_image(tmp_path / "ct.tif", black=300, white=-200))
    assert torch.allclose(turned, 1 - read, atol=1e-6)
    Image.fromarray(scene()).save(tmp_path / "eight.png")
    assert to_tensor(read_image(tmp_path / "eight.png", white=200)).equal(to_tensor(read_image(tmp_path / "eight.png")))
    for wrong in ({"black": 3, "white": 3}, {"black": float("nan"), "white": 3}, {"black": 2}):
        with pytest.raises(OptionError, match="black"):
            read_image(tmp_path / "ct.tif", **wrong)


def test_a_classifier_says_the_scale_of_its_pictures(tmp_path):
    """A file and the same integers in memory are read by it, pictures of 8 bits and floats are what they were."""
    values = np.linspace(-1000, 3000, 64).reshape(8, 8).astype(np.int16)
    tifffile.imwrite(tmp_path / "ct.tif", values)
    tifffile.imwrite(tmp_path / "float.tif", values.astype(np.float32))
    Image.fromarray(scene()).save(tmp_path / "eight.png")
    expected = torch.from_numpy((values.astype(float) + 1000) / 4000).float().expand(3, -1, -1)
    reading = Preprocess((8, 8), black=-1000, white=3000).reading
    for source in (tmp_path / "ct.tif", tmp_path / "float.tif", values, torch.from_numpy(values)[None]):
        (read,) = as_pictures(source, **reading)
        assert torch.allclose(to_tensor(read), expected, atol=1e-6)
        assert torch.equal(to_tensor(as_pictures(read, **reading)[0]), to_tensor(read))
    for same in (tmp_path / "eight.png", scene(), Image.open(tmp_path / "eight.png")):
        assert torch.equal(to_tensor(as_pictures(same, **reading)[0]), to_tensor(as_pictures(same)[0]))
    network = classifier()
    network.preprocess = replace(network.preprocess, black=-1000, white=3000)
    assert torch.equal(
        explain(network, tmp_path / "ct.tif", "saliency").maps, explain(network, values, "saliency").maps
    )
    for wrong in ({"black": 3}, {"white": "4095"}, {"white": True}, {"white": float("inf")}, {"white": 10**400}):
        with pytest.raises(OptionError, match=r"black|white"):
            Preprocess((8, 8), **wrong)


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((8, 9, 5), 3), ((8, 9, 2), 3), ((8, 9, 3), 4), ((8, 9), 4), ((8, 9), 6), ((8, 9, 6), 1), ((8, 9, 4), 6)],
)
def test_bands_that_do_not_fit_are_refused(tmp_path, shape, channels):
    for kind in (np.uint8, np.uint16, np.float32):
        values = np.zeros(shape, kind)
        assert f"network of {channels}" in refused(values, channels)
        tensor = torch.from_numpy(values if len(shape) == 3 else values[..., None]).movedim(-1, 0)
        assert f"network of {channels}" in refused(tensor, channels)
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", **_contiguous(shape))
        assert "a.tif" in refused(tmp_path / "a.tif", channels)


def _contiguous(shape: tuple[int, ...]) -> dict[str, str]:
    return {"planarconfig": "contig"} if len(shape) == 3 else {}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "1", "YCbCr"])
def test_a_picture_without_a_fourth_band_is_refused_by_a_network_of_four(tmp_path, mode):
    image = Image.fromarray(scene()).convert(mode)
    image.save(tmp_path / "a.tif")
    assert "network of 4" in refused(tmp_path / "a.tif", 4)
    assert "network of 4" in refused(image, 4)


def test_four_bands_of_eight_bits(tmp_path):
    values = (fine(bands=4) >> 8).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", Image.fromarray(values), values / 255, torch.from_numpy(values).movedim(-1, 0)):
        assert torch.equal(seen(source, 4), seen(values, 4))
        assert torch.equal(seen(source, 3), seen(values, 3))
        assert torch.equal(seen(source, 1), seen(values, 1))
    exact = as_pictures(tmp_path / "a.png", 4)[0]
    assert torch.allclose(to_tensor(exact, 4), torch.from_numpy(values / 255).movedim(-1, 0).float())


def test_channels_on_the_wrong_axis_are_refused_with_the_way_out():
    assert "channels last" in refused(np.zeros((3, 32, 40), np.uint8), 3)
    assert "channels last" in refused(np.zeros((6, 32, 40), np.float32), 6)
    assert "channels first" in refused(torch.zeros(32, 40, 3), 3)
    assert "channels first" in refused(torch.zeros(2, 32, 40, 3), 3)


def test_booleans_and_halves():
    mask = np.arange(64).reshape(8, 8) % 3 == 0
    for source in (mask, torch.from_numpy(mask)[None], Image.fromarray(mask)):
        assert torch.equal(seen(source), seen(mask.astype(np.uint8) * 255))
    values = fine() / 65535
    for kind in (torch.float16, torch.bfloat16):
        tensor = torch.from_numpy(values).movedim(-1, 0).to(kind)
        assert torch.equal(seen(tensor), seen(tensor.float()))


def test_masked_pixels_are_refused():
    masked = np.ma.masked_less(fine() / 65535, 0.3)
    assert "masked" in refused(masked)


def test_three_bands_for_a_network_of_one():
    """Luma by the weights that Pillow takes, at any depth."""
    values = fine()
    exact = (torch.from_numpy(values / 65535).float() @ torch.tensor([0.299, 0.587, 0.114]))[None]
    assert torch.allclose(to_tensor(as_pictures(values, 1)[0], 1), exact, atol=1e-5)
    eight = (values >> 8).astype(np.uint8)
    grey = np.array(Image.fromarray(eight).convert("L"))
    assert torch.equal(to_tensor(as_pictures(eight, 1)[0], 1)[0], torch.from_numpy(grey).float() / 255)


def test_a_picture_is_never_changed():
    values = (fine() / 65535).astype(np.float32)
    tensor, kept = torch.from_numpy(values).movedim(-1, 0), values.copy()
    for source in (values, tensor):
        as_pictures(source)[0].mul_(0)
    assert np.array_equal(values, kept)


def test_pictures_of_many_bands_can_be_shown(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", fine(bands=6), photometric="minisblack", planarconfig="contig")
    assert to_pil(read_image(tmp_path / "a.tif")).mode == "RGB"


# --- hostile


@pytest.mark.parametrize("bands", [1, 3, 6])
def test_cut_deep_tiffs_are_refused_and_not_filled_up(tmp_path, bands):
    values = fine(bands=bands)
    stored = values[..., 0] if bands == 1 else values
    for compression in (None, "zlib"):
        photometric = "rgb" if bands == 3 else "minisblack"
        options = {} if bands == 1 else {"planarconfig": "contig"}
        tifffile.imwrite(tmp_path / "a.tif", stored, compression=compression, photometric=photometric, **options)
        whole = (tmp_path / "a.tif").read_bytes()
        for share in (0.1, 0.5, 0.9, 0.99):
            (tmp_path / "cut.tif").write_bytes(whole[: int(share * len(whole))])
            assert "cut.tif" in refused(tmp_path / "cut.tif")


def test_a_tiff_that_claims_to_be_huge_is_refused(tmp_path):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, fine(bands=6), photometric="minisblack", planarconfig="contig", metadata=None)
    content = bytearray(buffer.getvalue())
    for tag in (256, 257):
        place = next(at for kind in (3, 4) if (at := content.find(struct.pack("<HHI", tag, kind, 1))) > 0)
        content[place + 2 : place + 4] = struct.pack("<H", 4)
        content[place + 8 : place + 12] = struct.pack("<I", 60000)
    (tmp_path / "bomb.tif").write_bytes(content)
    assert "make a smaller copy" in refused(tmp_path / "bomb.tif")


def test_mutated_deep_files_are_read_or_refused_in_one_line(tmp_path, capfd):
    files = []
    for bands, kind, compression in ((6, np.uint16, None), (3, np.uint16, "zlib"), (3, np.float32, None)):
        values = fine(bands=bands) if kind is np.uint16 else (fine(bands=bands) / 65535).astype(kind)
        photometric = "rgb" if bands == 3 else "minisblack"
        tifffile.imwrite(
            tmp_path / "a.tif", values, photometric=photometric, planarconfig="contig", compression=compression
        )
        files.append((tmp_path / "a.tif").read_bytes())
    files.append(png16(tmp_path / "a.png", fine()).read_bytes())
    rng, read = np.random.default_rng(0), 0
    for trial in range(200):
        data = bytearray(files[trial % len(files)])
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(0, min(len(data), 400))] = rng.integers(0, 256)
        (tmp_path / "mutated.img").write_bytes(data)
        try:
            tensor = to_tensor(read_image(tmp_path / "mutated.img"), 3)
        except InputError as error:
            message = str(error)
            assert "\n" not in message
            assert len(message) < 400
            continue
        read += 1
        assert bool(torch.isfinite(tensor).all())
        assert 0 <= float(tensor.min()) <= float(tensor.max()) <= 1
    assert 5 < read < 195
    assert capfd.readouterr().err == ""


def test_a_deep_lzw_tiff_that_lies_on_its_side(tmp_path):
    values = fine(bands=1)[..., 0]
    Image.fromarray(np.rot90(values)).save(tmp_path / "a.tif", compression="tiff_lzw", tiffinfo={274: 6})
    assert torch.equal(to_tensor(read_image(tmp_path / "a.tif")), to_tensor(as_pictures(values)[0]))


def test_a_tiff_of_packed_twelve_bits(tmp_path):
    values = fine(8, 10, bands=1)[..., 0] >> 4
    bits = ((values[..., None] >> np.arange(11, -1, -1)) & 1).astype(np.uint8)
    body = np.packbits(bits.reshape(8, -1), axis=1).tobytes()
    entries = [(256, 10), (257, 8), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 8), (279, len(body))]
    place = 8 + len(body)
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in entries)
    (tmp_path / "a.tif").write_bytes(struct.pack("<2sHI", b"II", 42, place) + body + directory + b"\0\0\0\0")
    expected = torch.from_numpy(values / 4095).float()
    assert torch.allclose(to_tensor(read_image(tmp_path / "a.tif")), expected, atol=1e-6)


def test_sixteen_bit_pgm(tmp_path):
    values = fine(bands=1)[..., 0]
    (tmp_path / "a.pgm").write_bytes(b"P5 44 30 65535\n" + values.astype(">u2").tobytes())
    assert torch.equal(seen(tmp_path / "a.pgm"), seen(values))


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "La"]
)
def test_every_mode_of_pillow_is_a_picture(mode):
    image = Image.new(mode, (9, 8))
    for channels in (1, 3):
        network = classifier(channels)
        expected = seen(image, channels)
        assert expected.shape == (1, channels, 16, 16)
        assert torch.equal(network.preprocessed([image], network.views([image])), expected)


def test_a_deep_pil_image_handed_to_look_is_read_at_its_depth():
    image, network = Image.fromarray(fine(bands=1)[..., 0]), classifier()
    assert torch.equal(network.preprocessed([image], network.views([image])), seen(fine(bands=1)))


def test_the_place_of_a_picture_that_cannot_be_used_is_told():
    good = fine()
    assert refused([good, good.astype(np.int32)]).startswith("picture 2: ")
    assert "meta" in refused(torch.zeros(3, 4, 4, device="meta"))


def test_threads_that_read_at_once_leave_the_filters_of_warnings_as_they_were(tmp_path):
    for index in range(16):
        tifffile.imwrite(tmp_path / f"{index}.tif", np.full((16, 16, 3), 60000, np.uint16), photometric="rgb")
    silenced = logging.getLogger("PIL.TiffImagePlugin")
    for _ in range(20):
        before = list(warnings.filters)
        assert all(item.error is None for item in open_source(tmp_path).items(threads=8))
        assert (warnings.filters, silenced.disabled, silenced.filters) == (before, False, [])


def test_a_warning_that_filters_make_an_error_of_is_no_damage(tmp_path):
    tifffile.imwrite(tmp_path / "dark.tif", np.full((8, 8), 3000, np.uint16))
    with warnings.catch_warnings():
        warnings.simplefilter("error", PhospheneWarning)
        with pytest.raises(PhospheneWarning, match="nearly black"):
            read_image(tmp_path / "dark.tif")
