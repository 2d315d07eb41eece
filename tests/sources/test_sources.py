"""Every kind of source: what it lists, what it calls it, and that a picture that cannot be read is an item."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import tempfile
from datetime import UTC, date, datetime, time
from decimal import Decimal
from glob import iglob

import fsspec
import numpy as np
import pytest
from PIL import Image

from phosphene.errors import InputError, NotFoundError, OptionError, PhospheneWarning, ResourceError
from phosphene.files import glob as local_glob
from phosphene.sources import COLUMN_TYPES, Files, Folder, Item, Table, Uploads, open_pictures, open_source
from phosphene.store import RunFolder
from tests.pictures import HOSTILE, save


def jpeg(color="red", size=(12, 8)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, color).save(content, "JPEG")
    return content.getvalue()


def tree(place, *names):
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(jpeg())
    return place


def remote(files):
    """The files in fsspec's memory, under a URL of their own."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for name, content in files.items():
        memory.pipe_file(f"/bucket/{name}", content)
    return "memory://bucket"


def keys(source):
    return [item.key for item in source]


def check(item: Item):
    assert (item.picture is None) != (item.error is None)
    assert item.error is None or "\n" not in item.error


def test_a_folder_is_read_with_all_below_it_in_the_order_of_the_paths(tmp_path):
    tree(tmp_path, "b/1.jpg", "b-2/x.jpg", "a.jpg", "b.jpg", "c/d/e.PNG", "ünï/日本 1.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    tree(tmp_path, ".ipynb_checkpoints/a-checkpoint.jpg", "b/.cache/x/1.jpg")
    (tmp_path / "._a.jpg").write_bytes(b"\0\5\x16\7")
    found = list(open_source(tmp_path))
    assert [item.key for item in found] == ["a.jpg", "b/1.jpg", "b-2/x.jpg", "b.jpg", "c/d/e.PNG", "ünï/日本 1.jpg"]
    assert all(item.picture is not None and item.path == str(tmp_path / item.key) for item in found)


def test_runs_of_ours_are_no_pictures(tmp_path):
    tree(tmp_path, "a.jpg", "other/manifest.json", "other/b.jpg")
    run = RunFolder.create(tmp_path / "out", "explain")
    run.save_image("overlay.png", Image.new("RGB", (8, 8)))
    run.save_manifest()
    assert keys(open_source(tmp_path)) == ["a.jpg", "other/b.jpg"]
    with pytest.raises(InputError, match="is a run of phosphene"):
        open_source(run.path)


def test_links_to_folders_are_followed_but_never_in_circles(tmp_path):
    tree(tmp_path, "photos/real/a.jpg")
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos" / "real")
    (tmp_path / "photos" / "real" / "up").symlink_to(tmp_path / "photos")
    assert keys(Folder(tmp_path / "photos")) == ["again/a.jpg", "real/a.jpg"]
    assert keys(open_source(f"{tmp_path}/photos/**/*.jpg")) == ["again/a.jpg", "real/a.jpg"]


def test_patterns_fit_what_they_fit_in_python(tmp_path, monkeypatch):
    tree(tmp_path, "a.jpg", "x/b.jpg", "x/y/[c]/d.jpg", "x/y/e.png", "x/.hidden/f.jpg", "**/g.jpg", "x1/y/h.jpg")
    monkeypatch.chdir(tmp_path)
    for pattern in (
        "**", "**/*.jpg", "x/**", "x*/**/*.jpg", "**/y/**/*", "x/**/[[]c]/**/*.jpg", "./**/b.jpg", "x/../**/?.jpg",
        f"{tmp_path}/**/*.jpg", "x/.hidden/**/*.jpg", "**.jpg", "none/**/*.jpg", "x//**/*.jpg", "**/**/*.jpg",
    ):  # fmt: skip
        wanted = {os.path.normpath(name) for name in iglob(pattern, recursive=True) if os.path.isfile(name)}
        assert {os.path.normpath(name) for name in local_glob(pattern)} == wanted, pattern


def test_a_folder_that_cannot_be_listed_is_an_item(tmp_path, monkeypatch):
    from phosphene.sources import folder

    tree(tmp_path, "a.jpg", "secret/b.jpg", "z.jpg")
    real = folder.names_in

    def names_in(place):
        if place.endswith("secret"):
            raise InputError(f"{place}: cannot be listed (Permission denied)")
        return real(place)

    monkeypatch.setattr(folder, "names_in", names_in)
    found = list(Folder(tmp_path))
    assert [item.key for item in found] == ["a.jpg", "secret/", "z.jpg"]
    assert "Permission denied" in found[1].error


@pytest.mark.parametrize("specs", [[""], ["a.jpg", ""]])
def test_an_empty_name_is_refused_before_anything_is_read(specs):
    for opened in (open_source, open_pictures):
        with pytest.raises(OptionError, match="an empty name was given for pictures"):
            opened(specs)


def test_empty_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no picture file"):
        list(open_source(tmp_path))
    with pytest.raises(InputError, match="no such folder"):
        Folder(tmp_path / "none")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_items_with_an_error(tmp_path, name):
    make, says = HOSTILE[name]
    path = make(tmp_path / name)
    (item,) = Files(path)
    check(item)
    if item.error is not None:
        assert says in item.error
    if path.is_file() and path.stat().st_size < 1_000_000:
        (uploaded,) = Uploads([(name, path.read_bytes())])
        assert (uploaded.error is None) == (item.error is None)
        assert uploaded.error is None or "/tmp" not in uploaded.error


def test_hostile_files_in_a_folder_stand_among_the_others(tmp_path):
    for name, (make, _) in HOSTILE.items():
        if name != "missing.jpg":
            make(tmp_path / name)
    found = {item.key: item for item in open_source(tmp_path)}
    for item in found.values():
        check(item)
    assert found["whole.jpg"].picture is not None
    assert "empty" in found["empty.jpg"].error
    assert {"fifo.jpg", "two\nlines.jpg", "text.jpg"} <= found.keys()


def test_files_that_are_given_twice_count_twice(tmp_path, monkeypatch):
    tree(tmp_path, "a.jpg", "b/a.jpg")
    monkeypatch.chdir(tmp_path)
    source = open_source(["a.jpg", "./a.jpg", "b/a.jpg", "none.jpg"])
    found = list(source)
    assert [item.key for item in found] == ["a.jpg", "a.jpg#2", "b/a.jpg", "none.jpg"]
    assert found[-1].error == "none.jpg: no such file"
    assert source.keys() == [item.key for item in found]


def test_patterns(tmp_path):
    tree(tmp_path, "val/0/0.jpg", "val/1/0.jpg", "val/1/[x].jpg", "val/1/raw.dat")
    assert keys(open_source(f"{tmp_path}/val/*/0.jpg")) == ["0/0.jpg", "1/0.jpg"]
    assert keys(open_source(f"{tmp_path}/**/*")) == ["val/0/0.jpg", "val/1/0.jpg", "val/1/[x].jpg"]
    assert keys(open_source(f"{tmp_path}/val/1/*.dat")) == ["raw.dat"]
    assert keys(open_source(f"{tmp_path}/val/1/[x].jpg")) == [f"{tmp_path}/val/1/[x].jpg"]  # is there as it stands
    with pytest.raises(InputError, match="no picture fits"):
        list(open_source(f"{tmp_path}/*.png"))


def test_several_specs_keep_their_pictures_apart(tmp_path, monkeypatch):
    tree(tmp_path, "one/0.jpg", "two/0.jpg", "0.jpg")
    monkeypatch.chdir(tmp_path)
    assert keys(open_source(["one", "two/", "0.jpg", "one"])) == ["one/0.jpg", "two/0.jpg", "0.jpg", "one/0.jpg#2"]
    with pytest.raises(InputError, match="no pictures were given"):
        open_source([])


def test_csv_with_quotes_marks_and_relative_paths(tmp_path, monkeypatch):
    tree(tmp_path, "data/a, b.jpg", "data/sub/ü.jpg")
    absolute = save(tmp_path / "else.png")
    table = tmp_path / "data" / "labels.csv"
    rows = ["Path,label,note", '"a, b.jpg",281,"say ""hi""\nthere"', "sub/ü.jpg,,", f"{absolute},n01,x", ",2,y"]
    table.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*rows, "a, b.jpg".join('""') + ",3,again"]).encode())
    monkeypatch.chdir(tmp_path.parent)
    source = open_source(table)
    found = list(source)
    assert [item.key for item in found] == ["a, b.jpg", "sub/ü.jpg", str(absolute), "(no path)", "a, b.jpg#2"]
    assert [item.error is None for item in found] == [True, True, True, False, True]
    assert [item.label for item in found] == ["281", None, "n01", "2", "3"]
    assert found[0].columns == {"note": 'say "hi"\nthere'}
    assert source.column_types == {"note": "string"}
    assert source.keys() == [item.key for item in found]


def test_other_separators_and_named_columns(tmp_path):
    tree(tmp_path, "a.jpg")
    table = tmp_path / "t.csv"
    table.write_text("wo;was;label\na.jpg;cat, tabby;x\n")
    with pytest.raises(InputError, match="no column of paths"):
        open_source(table)
    with pytest.raises(NotFoundError, match="did you mean"):
        open_source(table, path_column="wos")
    (item,) = open_source(table, path_column="wo", label_column="was")
    assert (item.key, item.label, item.columns) == ("a.jpg", "cat, tabby", {"label": "x"})


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfep\0a\0t\0h\0", b"path\n\xff.jpg\n"])
def test_damaged_tables_are_one_line(tmp_path, content):
    table = tmp_path / "t.csv"
    table.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(open_source(table))
    assert "\n" not in str(caught.value)


def test_a_list_of_one_path_a_line(tmp_path, monkeypatch):
    tree(tmp_path, "data/a b.jpg", "data/sub/ü.jpg")
    absolute = save(tmp_path / "else.png")
    lines = ["\ufeff./a b.jpg", "", f"{absolute} ", "sub/ü.jpg", "  ", "sub/ü.jpg", "none.jpg"]
    for name in ("list.txt", "list.LST"):
        (tmp_path / "data" / name).write_text("\r\n".join(lines), "utf-8")
        found = list(open_source(tmp_path / "data" / name))
        wanted = ["./a b.jpg", str(absolute), "sub/ü.jpg", "sub/ü.jpg#2", "none.jpg"]
        assert [item.key for item in found] == wanted
        assert [item.error is None for item in found] == [True, True, True, True, False]
    monkeypatch.chdir(tmp_path)
    assert keys(open_source(["else.png", "data/list.txt"]))[:2] == ["else.png", "data/list.txt/./a b.jpg"]
    (tmp_path / "odd.txt").write_bytes(b"caf\xe9.jpg\n")
    assert [entry.path for entry in open_source("odd.txt").entries()] == ["caf\udce9.jpg"]
    assert keys(open_source(remote({"list.txt": b"photos/a.jpg\n", "photos/a.jpg": jpeg()}) + "/list.txt")) == [
        "photos/a.jpg"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\n \n", "names no picture"), ("a.jpg".encode("utf-16"), "save it as UTF-8 text"), (jpeg(), "or write file:")],
)
def test_what_is_no_list_is_refused_and_may_be_a_picture(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / "list.txt").keys()
    assert keys(open_source(f"file:{tmp_path}/list.txt")) == [f"{tmp_path}/list.txt"]


def test_parquet_carries_its_types(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    tree(tmp_path, "a.jpg", "b.jpg")
    columns = {
        "image_path": ["a.jpg", "b.jpg"],
        "age": pa.array([3, None], pa.int16()),
        "share": [0.5, None],
        "good": [True, None],
        "tags": [["x", "ü"], None],
        "raw": [b"1", b"2"],
        "crops": [[b"1"], []],
        "image": [{"bytes": b"1"}, None],  # the picture itself
        "class_index": [7, None],
    }
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.warns(PhospheneWarning, match="holds bytes in raw, crops, which are not carried along") as told:
        source = Table(tmp_path / "t.parquet")
    assert len(told) == 1
    one, two = source
    assert one.columns == {"age": 3, "share": 0.5, "good": True, "tags": '["x", "ü"]'}
    assert set(two.columns.values()) == {None}
    assert (one.label, two.label) == ("7", None)
    assert dict(source.column_types) == {"age": "int64", "share": "float64", "good": "bool", "tags": "string"}
    assert set(source.column_types.values()) == set(COLUMN_TYPES)
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-30])
    with pytest.raises(InputError, match=r"bad\.parquet: cannot be read"):
        open_source(tmp_path / "bad.parquet")


def test_parquet_carries_dates_and_exact_numbers_as_plain_text(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "path": ["a.jpg"],
        "day": [date(1970, 1, 2)],
        "taken": pa.array([datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)], pa.timestamp("s", "UTC")),
        "finely": pa.array([1_000_000_001], pa.timestamp("ns")),
        "at": [time(1, 2, 3)],
        "price": [Decimal("1.50")],
        "big": pa.array([2**63], pa.uint64()),
        "site": pa.array(["left"]).dictionary_encode(),
        "days": [[date(1970, 1, 2)]],
        "none": pa.nulls(1),
    }
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    (entry,) = Table(tmp_path / "t.parquet").entries()
    assert entry.columns == {
        "day": "1970-01-02",
        "taken": "2024-05-06T07:08:09+00:00",
        "finely": "1970-01-01T00:00:01",
        "at": "01:02:03",
        "price": "1.50",
        "big": "9223372036854775808",
        "site": "left",
        "days": '["1970-01-02"]',
        "none": None,
    }


def archive(path, members, mode="w"):
    """A tar file of (name, content or a ready TarInfo)."""
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return name, info


ODD = [
    ("./0/7.jpg", jpeg("red")),
    ("./0/7.cls", b"281\n"),
    ("./0/7.json", '{"a": "ü"}'.encode()),
    ("./0/7.mask.png", b"a mask that is never looked at"),
    special("dir.jpg", tarfile.DIRTYPE),
    special("link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
    special("fifo.jpg", tarfile.FIFOTYPE),
    ("../../evil.jpg", jpeg("blue")),
    ("/abs.jpg", jpeg("blue")),
    ("empty.jpg", b""),
    ("text.jpg", b"no picture"),
    ("photo.of.2020.jpg", jpeg()),
    ("x" * 150 + "/日本.jpg", jpeg()),
    ("._7.jpg", b"\0\5\x16\7"),
    ("readme.md", b"# hi"),
    ("twice.jpg", jpeg("red")),
    ("between.txt", b"about nothing"),
    ("twice.jpg", jpeg("blue")),
]
ODD_KEYS = [
    "0/7.jpg", "link.jpg", "../../evil.jpg", "abs.jpg", "empty.jpg", "text.jpg", "photo.of.2020.jpg",
    "x" * 150 + "/日本.jpg", "twice.jpg", "twice.jpg#2",
]  # fmt: skip


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_tar_shards_with_odd_members(tmp_path, ending):
    shard = archive(tmp_path / f"s.{ending}", ODD, "w" if ending == "tar" else "w:gz")
    found = {item.key.removeprefix(f"s.{ending}/"): item for item in open_source(str(shard))}
    assert [key.removeprefix("./") for key in found] == ODD_KEYS
    failed = [key for key, item in found.items() if item.error is not None]
    assert failed == ["link.jpg", "empty.jpg", "text.jpg"]
    assert "is a link" in found["link.jpg"].error
    first = next(iter(found.values()))
    assert (first.label, first.columns) == ("281", {"text": None, "json": '{"a": "ü"}'})
    assert np.asarray(found["twice.jpg"].picture)[0, 0, 0] > 200 > np.asarray(found["twice.jpg#2"].picture)[0, 0, 0]
    assert not list(tmp_path.parent.glob("evil.jpg"))


def test_shards_by_folder_pattern_and_range_have_the_same_keys(tmp_path):
    for number in (8, 9, 10):
        archive(tmp_path / f"s-{number:03d}.tar", [("0.jpg", jpeg())])
    wanted = ["s-008.tar/0.jpg", "s-009.tar/0.jpg", "s-010.tar/0.jpg"]
    for spec in (tmp_path, f"{tmp_path}/*.tar", f"{tmp_path}/s-{{008..010}}.tar", f"tar:{tmp_path}"):
        assert keys(open_source(spec)) == wanted


def test_a_shard_that_ends_early_gives_what_it_has_and_an_error(tmp_path):
    whole = archive(tmp_path / "s.tar", [(f"{n}.jpg", jpeg()) for n in range(5)]).read_bytes()
    archive(tmp_path / "t.tar", [("9.jpg", jpeg())])
    (tmp_path / "s.tar").write_bytes(whole[: 2 * 1536 + 600])
    found = list(open_source(tmp_path))
    assert [item.key for item in found][:2] == ["s.tar/0.jpg", "s.tar/1.jpg"]
    assert found[-1].key == "t.tar/9.jpg"
    assert found[-1].error is None
    assert found[-2].key == "s.tar/"
    assert "damaged or cut short" in found[-2].error
    (tmp_path / "s.tar").write_bytes(b"no archive")
    assert [item.error is None for item in open_source(tmp_path)] == [False, True]


def test_the_same_pictures_behind_a_url(tmp_path):
    shard = archive(tmp_path / "s.tar", [("7.jpg", jpeg()), ("7.cls", b"1")]).read_bytes()
    url = remote(
        {
            "photos/a.jpg": jpeg(),
            "photos/sub/b.jpg": jpeg(),
            "photos/empty.jpg": b"",
            "photos/text.jpg": b"no picture",
            "photos/run/manifest.json": b'{\n "schema": 2,\n "phosphene": "0.1.0"',
            "photos/run/overlay.png": jpeg(),
            "labels.csv": b"path,label\nphotos/a.jpg,1\nphotos/none.jpg,2\n",
            "shards/s.tar": shard,
        }
    )
    folder = list(open_source(f"{url}/photos"))
    assert [item.key for item in folder] == ["a.jpg", "empty.jpg", "sub/b.jpg", "text.jpg"]
    assert [item.error is None for item in folder] == [True, False, True, False]
    assert folder[0].path == "memory://bucket/photos/a.jpg"
    assert "memory://bucket/photos/text.jpg: not an image" in folder[3].error
    assert keys(open_source(f"{url}/photos/**/*.jpg")) == ["a.jpg", "empty.jpg", "sub/b.jpg", "text.jpg"]
    assert [item.picture is None for item in open_source(f"{url}/photos/a.jpg")] == [False]
    table = list(open_source(f"{url}/labels.csv"))
    assert [(item.key, item.label, item.error) for item in table] == [
        ("photos/a.jpg", "1", None),
        ("photos/none.jpg", "2", "memory://bucket/photos/none.jpg: no such file"),
    ]
    for spec in (f"{url}/shards", f"{url}/shards/s.tar", f"{url}/shards/*.tar"):
        assert [(item.key, item.label) for item in open_source(spec)] == [("s.tar/7.jpg", "1")]
    with pytest.raises(InputError, match="no such file or folder"):
        open_source(f"{url}/nothing")
    with pytest.raises(InputError, match="nosuch"):
        open_source("nosuch://bucket/folder")


def test_what_fits_two_sources_is_refused(tmp_path):
    tree(tmp_path, "both/a.jpg", "photo.jpg/b.jpg")
    archive(tmp_path / "both" / "s.tar", [("0.jpg", jpeg())])
    with pytest.raises(OptionError, match=f"write folder:{tmp_path}/both or tar:{tmp_path}/both") as caught:
        open_source(tmp_path / "both")
    assert "\n" not in str(caught.value)
    assert keys(open_source(f"folder:{tmp_path}/both")) == ["a.jpg"]
    assert keys(open_source(f"tar:{tmp_path}/both")) == ["s.tar/0.jpg"]
    assert keys(open_source(tmp_path / "photo.jpg")) == ["b.jpg"]
    with pytest.raises(OptionError, match="takes no label_column"):
        open_source(tmp_path / "photo.jpg", label_column="x")


def test_uploads_are_named_but_never_looked_for(tmp_path):
    files = [
        ("C:\\photos\\a.jpg", jpeg()),
        ("../../etc/passwd.jpg", b"x"),
        ("a.jpg", jpeg()),
        ("a.jpg", b""),
        ("", b""),
    ]
    found = list(Uploads(files))
    assert [item.key for item in found] == ["C:/photos/a.jpg", "etc/passwd.jpg", "a.jpg", "a.jpg#2", "unnamed"]
    assert [item.error is None for item in found] == [True, False, True, False, False]
    assert "a.jpg: is empty (0 bytes)" in found[3].error


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
def test_no_room_for_temporary_files_ends_the_run_and_leaves_none(tmp_path, monkeypatch):
    """The pictures are sound: rows with errors would count as done."""
    made = tempfile.NamedTemporaryFile

    def full(**options):
        file = made(dir=tmp_path, **options)
        with open("/dev/full", "wb") as device:
            os.dup2(device.fileno(), file.fileno())
        return file

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    with pytest.raises(ResourceError, match=r"a\.jpg: no temporary file can be written \(No space left on device\)"):
        list(Uploads([("a.jpg", jpeg())]))
    assert not list(tmp_path.iterdir())


def test_entries_travel_to_other_processes(tmp_path):
    tree(tmp_path / "photos", "a.jpg")
    (tmp_path / "t.csv").write_text("path\nphotos/a.jpg\n")
    archive(tmp_path / "s.tar", [("7.jpg", jpeg())])
    for spec in (tmp_path / "photos", tmp_path / "t.csv", f"{tmp_path}/s.tar", tmp_path / "photos/a.jpg"):
        (entry,) = pickle.loads(pickle.dumps(list(open_source(spec).entries())))
        assert entry.load().size == (12, 8)
