from __future__ import annotations

import io
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from phosphene import images as module
from phosphene.errors import InputError, OptionError, PhospheneWarning
from phosphene.geometry import center_view, whole_view
from phosphene.images import as_pictures, expand_paths, list_images, preprocess, read_image, to_pil, to_tensor
from phosphene.types import View
from tests.pictures import HOSTILE, bomb, save, scene, turned


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_line_that_names_the_file(tmp_path, name):
    make, reason = HOSTILE[name]
    path = make(tmp_path / name)
    with pytest.raises(InputError) as caught:
        read_image(path)
    message = str(caught.value)
    assert "\n" not in message
    assert name.replace("\n", "\\n") in message
    assert reason in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = bomb(tmp_path / "bomb.png")
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError, match=r"bomb\.png: .*make a smaller copy"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, orientation):
    picture = np.asarray(read_image(turned(tmp_path / "turned.jpg", orientation)), np.int16)
    assert picture.shape == (24, 36, 3)
    assert np.abs(picture - scene()).mean() < 12
    assert np.abs(picture[:, ::-1] - scene()).mean() > 40


def test_a_picture_is_turned_only_once(tmp_path):
    """What was read is upright already; its orientation must not be applied again."""
    picture = read_image(turned(tmp_path / "turned.jpg", 6))
    again = as_pictures(picture)[0]
    assert np.array_equal(np.asarray(again), np.asarray(picture))


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    path = tmp_path / "exif.jpg"
    Image.fromarray(scene()).save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert read_image(path).size == (36, 24)


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("p.png", "P", {}),
        ("p.gif", "P", {}),
        ("rgba.png", "RGBA", {}),
        ("cmyk.jpg", "CMYK", {"quality": 95}),
        ("cmyk.tif", "CMYK", {}),
        ("ycc.jpg", "YCbCr", {"quality": 95}),
        ("rgb.webp", "RGB", {"lossless": True}),
        ("rgb.bmp", "RGB", {}),
        ("rgb.tif", "RGB", {"compression": "tiff_lzw"}),
        ("rgb.ppm", "RGB", {}),
        ("lab.tif", "LAB", {}),
    ],
)
def test_every_color_mode_gives_the_same_picture(tmp_path, name, mode, options):
    image = Image.fromarray(scene())
    if mode == "LAB":
        from PIL import ImageCms

        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        image = ImageCms.applyTransform(image, to_lab)
    else:
        image = image.convert(mode)
    image.save(tmp_path / name, **options)
    picture = read_image(tmp_path / name)
    assert picture.mode == "RGB"
    assert np.abs(np.asarray(picture, np.int16) - scene()).mean() < 10


def test_grey_and_bilevel(tmp_path):
    grey = np.linspace(0, 255, 24 * 36).reshape(24, 36).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "grey.png")), np.repeat(grey[..., None], 3, 2))
    Image.fromarray(grey).convert("1").save(tmp_path / "one.png")
    assert set(np.unique(np.asarray(read_image(tmp_path / "one.png")))) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_laid_on_white(tmp_path, mode):
    rgba = np.dstack([np.full((8, 8, 3), 60, np.uint8), np.repeat([[0] * 4 + [255] * 4], 8, 0).astype(np.uint8)])
    image = Image.fromarray(rgba)
    image.convert(mode).save(tmp_path / "a.png")
    array = np.asarray(read_image(tmp_path / "a.png"))
    assert (array[:, :4] == 255).all()
    assert (array[:, 4:] == 60).all()


def test_palette_with_a_transparent_color(tmp_path):
    image = Image.fromarray(scene()).quantize(4)
    index = image.getpixel((0, 0))
    image.save(tmp_path / "palette.png", transparency=index)
    array = np.asarray(read_image(tmp_path / "palette.png"))
    assert (array[0, 0] == 255).all()
    assert array[-1, 0, 0] == 200


def test_sixteen_bits_and_floats_are_scaled(tmp_path):
    ramp = np.linspace(0, 1, 256, dtype=np.float64).reshape(16, 16)
    Image.fromarray((ramp * 65535).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tif")
    for name in ("deep.png", "float.tif"):
        got = to_tensor(read_image(tmp_path / name))[0].numpy()
        assert np.abs(got - ramp).max() <= 1 / 65535, name


@pytest.mark.parametrize("value", [np.nan, np.inf, -5.0, 255.0])
def test_float_files_without_a_known_scale_are_refused(tmp_path, value):
    """No guess from what one picture holds: its neighbour would be scaled otherwise."""
    values = np.array([[0, value], [1, 0.5]], np.float32)
    Image.fromarray(values).save(tmp_path / "odd.tif")
    with pytest.raises(InputError, match=r"odd\.tif: holds"):
        read_image(tmp_path / "odd.tif")


def test_of_an_animation_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        red, green, blue = np.asarray(read_image(tmp_path / name))[4, 4]
        assert red > 200
        assert green < 40
        assert blue < 40


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 20000), (20000, 1)])
def test_the_smallest_and_thinnest_pictures_can_be_looked_at(tmp_path, size):
    """A picture of 1 x 20000 must not be enlarged to 224 x 4,480,000 before the centre is cut out."""
    height, width = size
    Image.new("RGB", (width, height), "red").save(tmp_path / "thin.png")
    picture = read_image(tmp_path / "thin.png")
    for view in (center_view(size, 256, (224, 224)), whole_view(size, (224, 224))):
        seen = preprocess(picture, view)
        assert seen.shape == (3, 224, 224)
        assert torch.allclose(seen.mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]), atol=0.01)


def test_a_thin_tensor_is_seen_like_a_thin_picture():
    rows = np.random.default_rng(0).integers(0, 255, (2, 20000, 3), dtype=np.uint8)
    tensor, view = torch.from_numpy(rows / 255.0).movedim(-1, 0).float(), center_view((2, 20000), 256, (224, 224))
    assert float((preprocess(tensor, view) - preprocess(Image.fromarray(rows), view)).abs().max()) <= 1.5 / 255


def test_a_thin_picture_is_seen_where_the_view_says(tmp_path):
    """The way around for thin pictures gives what the plain way gives."""
    rows = np.random.default_rng(0).integers(0, 255, (40, 900, 3), dtype=np.uint8)
    picture, view = Image.fromarray(rows), center_view((40, 900), 256, (224, 224))
    plain = picture.resize(view.scaled[::-1], Image.Resampling.BICUBIC)
    top, left, height, width = view.crop
    expected = to_tensor(plain.crop((left, top, left + width, top + height)))
    for limit in (10**9, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_MAX_RESIZED", limit)
            assert float((preprocess(picture, view) - expected).abs().max()) <= 1.01 / 255


def test_look_crops_and_fills_what_lies_outside_with_black():
    picture, tensor = Image.new("RGB", (10, 10), "white"), torch.ones(3, 10, 10)
    view = View((10, 10), (10, 10), (-2, -3, 14, 16))
    for source in (picture, tensor):
        seen = preprocess(source, view)
        assert seen.shape == (3, 14, 16)
        assert float(seen.sum()) == 300
        assert bool((seen[:, 2:12, 3:13] == 1).all())
    with pytest.raises(OptionError, match="view of a"):
        preprocess(picture, whole_view((9, 10), (5, 5)))


def test_eight_bit_and_float_pictures_look_alike():
    array = scene(60, 80)
    view = center_view((60, 80), 40, (32, 32))
    eight, real = (
        preprocess(Image.fromarray(array), view),
        preprocess(torch.from_numpy(array / 255.0).movedim(-1, 0).float(), view),
    )
    assert float((eight - real).abs().max()) < 0.02


# --- arrays and tensors


def test_arrays_tensors_and_pil_images_are_the_same_picture():
    array = scene()
    sources = [
        array,
        Image.fromarray(array),
        torch.from_numpy(array).movedim(-1, 0),
        array.astype(np.float32) / 255,
        torch.from_numpy(array).movedim(-1, 0).double() / 255,
        array[None],
        np.asfortranarray(array),
        np.broadcast_to(array, array.shape),
        np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]),
        array[:, ::-1][:, ::-1],
        (array / 255).astype(">f4"),
        (array / 255).astype(np.float16),
        array.astype(np.uint16) * 257,
        array.astype(">u2") * 257,
    ]
    for source in sources:
        (picture,) = as_pictures(source)
        assert torch.allclose(to_tensor(picture), torch.from_numpy(array / 255.0).movedim(-1, 0).float(), atol=1e-3)
    assert len(as_pictures(sources)) == len(sources)
    assert len(as_pictures(np.stack([array, array]))) == 2


def test_read_only_arrays_give_no_warning():
    array = (scene() / 255).astype(np.float32)
    array.setflags(write=False)
    assert isinstance(as_pictures(array)[0], Image.Image)
    array = (scene() / 256).astype(np.float32)
    array.setflags(write=False)
    assert isinstance(as_pictures(array)[0], torch.Tensor)


@pytest.mark.parametrize(
    "source",
    [
        3,
        None,
        [],
        [[], []],
        np.zeros((0, 3, 3)),
        np.zeros((2, 2, 2, 2, 2)),
        np.zeros((0, 4, 4, 3), np.uint8),
        np.full((4, 4, 3), np.nan),
        np.full((4, 4, 3), 7.0),
        np.full((4, 4, 3), -0.5),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((4, 4, 3), np.int16),
        np.zeros((4, 4, 3), np.uint32),
        torch.zeros(3, 4, 4, dtype=torch.int32),
        torch.zeros(3, 4, 4).to_sparse(),
        np.zeros((4, 4, 3), complex),
        np.array([["a", "b"]]),
        np.array([[object()]]),
        torch.zeros(3),
        torch.zeros(0, 3, 4, 4),
        torch.full((3, 4, 4), float("inf")),
        {"path": 3},
        b"bytes",
    ],
    ids=lambda source: f"{type(source).__name__}{getattr(source, 'shape', '')}{getattr(source, 'dtype', '')}",
)
def test_what_is_no_picture_is_refused(source):
    with pytest.raises(InputError) as caught:
        as_pictures(source)
    assert "\n" not in str(caught.value)


def test_classes_among_pictures_are_told_where_they_go():
    with pytest.raises(InputError, match=r"picture 2: a tensor of shape \(2,\);.* the classes .* go to target="):
        as_pictures([torch.rand(2, 3, 4, 4), torch.tensor([1, 2])])


def test_channels():
    assert to_tensor(torch.rand(1, 4, 4)).shape == (3, 4, 4)
    assert to_tensor(Image.fromarray(scene()).convert("L"), 1).shape == (1, 24, 36)
    assert to_tensor(torch.rand(5, 4, 4), 5).shape == (5, 4, 4)
    assert to_tensor(Image.new("L", (4, 4)), 3).shape == (3, 4, 4)
    with pytest.raises(InputError, match="5 channels for a network of 3"):
        to_tensor(torch.rand(5, 4, 4))


@pytest.mark.parametrize("as_given", [lambda picture: picture, to_tensor], ids=["picture", "tensor"])
def test_lost_color_is_told_and_gray_in_three_channels_is_none(as_given):
    gray = scene()[..., :1] // 2 + np.uint8([10, 13, 7])  # as JPEG leaves it
    assert to_tensor(as_given(Image.fromarray(gray)), 1).shape == (1, 24, 36)
    with pytest.warns(PhospheneWarning, match="in color is shown to a network of one channel by its brightness alone"):
        assert to_tensor(as_given(Image.fromarray(scene())), 1).shape == (1, 24, 36)


def test_to_pil_is_the_inverse_of_to_tensor():
    image = Image.fromarray(scene())
    assert np.array_equal(np.asarray(to_pil(to_tensor(image))), scene())


def test_a_table_or_a_pattern_is_told_what_to_pass_instead():
    class Table(dict):
        columns = ("path",)

    with pytest.raises(InputError, match=r"a picture of type Table; pass its column of paths, as table\['path'\]"):
        as_pictures(Table(path=["a.jpg"]))
    with pytest.raises(InputError, match="a picture without a name"):
        as_pictures([""])
    with pytest.raises(InputError, match=r"val/\*.jpg: no such file; of a pattern pass the files that it fits"):
        as_pictures("val/*.jpg")


def test_folders(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        list_images(tmp_path / "none")
    with pytest.raises(InputError, match="holds no picture"):
        list_images(tmp_path)
    (tmp_path / "b").mkdir()
    save(tmp_path / "b" / "two.PNG", format="PNG")
    save(tmp_path / "one.jpg")
    (tmp_path / "notes.txt").write_text("no")
    (tmp_path / "folder.jpg").mkdir()
    hidden = tmp_path / ".ipynb_checkpoints"
    hidden.mkdir()
    for place in (hidden / "one-checkpoint.jpg", tmp_path / "._one.jpg"):
        place.write_bytes(b"")
    assert [path.name for path in list_images(tmp_path)] == ["two.PNG", "one.jpg"]
    assert len(expand_paths([tmp_path, tmp_path / "one.jpg"])) == 3
    with pytest.raises(InputError, match="is no folder; give the folder of the pictures"):
        list_images(tmp_path / "notes.txt")


def test_links_in_folders(tmp_path):
    (tmp_path / "camera").mkdir()
    save(tmp_path / "camera" / "one.jpg")
    sorted_out = tmp_path / "sorted"
    sorted_out.mkdir()
    (sorted_out / "site").symlink_to(tmp_path / "camera")
    (sorted_out / "back").symlink_to(sorted_out)
    (sorted_out / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert list_images(sorted_out) == [sorted_out / "gone.jpg", sorted_out / "site" / "one.jpg"]
    with pytest.raises(InputError, match=r"gone\.jpg: is a link to nothing"):
        read_image(sorted_out / "gone.jpg")


# --- mutated files


def _seeds() -> list[bytes]:
    image = Image.fromarray(scene())
    files = []
    for kind, mode, options in [
        ("JPEG", "RGB", {"quality": 80}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {"transparency": 0}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "F", {}),
        ("WEBP", "RGB", {}),
        ("PPM", "RGB", {}),
        ("ICO", "RGBA", {}),
        ("TGA", "RGB", {}),
        ("PCX", "RGB", {}),
        ("DDS", "RGBA", {}),
        ("JPEG2000", "RGB", {}),
    ]:
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, kind, **options)
        files.append(buffer.getvalue())
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(buffer, "JPEG", exif=exif)
    return [*files, buffer.getvalue()]


_FILES = _seeds()


def mutate(content: bytes, seed: int) -> bytes:
    """A few bytes changed, cut, doubled or removed; most of the harm done near the header."""
    rng = random.Random(seed)
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place = rng.randrange(min(len(data), rng.choice([32, 200, len(data)])) or 1)
        kind = rng.randrange(6)
        if kind <= 1:
            data[place] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        elif kind == 2:
            data[place : place + 4] = rng.choice(
                [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", rng.randbytes(4)]
            )
        elif kind == 3:
            del data[place : place + rng.randrange(1, 40)]
        elif kind == 4:
            data[place:place] = data[place : place + rng.randrange(1, 60)]
        else:
            del data[rng.randrange(1, len(data) + 1) :]
        if not data:
            return b""
    return bytes(data)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(_FILES) - 1), st.integers(0, 2**32 - 1))
def test_mutated_files_are_read_or_refused_in_one_line(tmp_path, index, seed):
    path = tmp_path / "mutated.img"
    path.write_bytes(mutate(_FILES[index], seed))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            picture = read_image(path)
        except InputError as error:
            message = str(error)
            assert "mutated.img" in message
            assert "\n" not in message
            assert len(message) < 400
            return
    tensor = to_tensor(picture) if isinstance(picture, Image.Image) else picture
    assert min(tensor.shape) >= 1
    assert 0 <= float(tensor.min()) <= float(tensor.max()) <= 1


def test_the_mutations_do_both(tmp_path):
    """Neither all refused nor all read: the property above says something."""
    path, read = tmp_path / "mutated.img", 0
    for seed in range(60):
        path.write_bytes(mutate(_FILES[seed % len(_FILES)], seed))
        try:
            read_image(path)
            read += 1
        except InputError:
            pass
    assert 5 < read < 55


def test_unreadable_file_is_named(tmp_path, monkeypatch):
    """Tests may run as root, who may read everything; so opening fails by hand."""
    path = save(tmp_path / "secret.png")

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"secret\.png: cannot be opened \(Permission denied\)"):
        read_image(path)
